"""Rows are kept by what they are of: saved while they are made, and added to what others have saved."""

import json
import math
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsim.store import store
from repsim.studies.comparison import result_cache as module
from repsim.studies.comparison.result_cache import ResultCache
from repsim.support import paths

IDENTITY = {"images": "0123456789ab", "labels": "ba9876543210"}
ROW = {"value": 0.5, "note": "", "n": 20}


def other(value):
    return {**ROW, "value": value}


def content(path):
    """Of a file, read by a stricter reader of JSON: one that knows no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def path_of(known):
    return module.VALUES.path(known.recipe)


def kept(identity=IDENTITY):
    """What a later run finds: rows by their keys."""
    known = ResultCache(identity)
    path = path_of(known)
    keys = content(path)["values"] if path.exists() else []
    return {key: known[key] for key in keys}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


# -- saved --------------------------------------------------------------------------------------------------


def test_a_row_is_the_callers_own():
    row = dict(ROW)
    with ResultCache(IDENTITY) as known:
        known.put("a", row)
        row["value"] = 9.0
    assert kept() == {"a": ROW}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_was_put_before_an_error_is_saved(error):
    def fail():
        with ResultCache(IDENTITY) as known:
            known.put("a", ROW)
            raise error

    with pytest.raises(error):
        fail()
    assert kept() == {"a": ROW}


def test_nothing_is_saved_before_its_time(clock):
    known = ResultCache(IDENTITY)
    clock.now += module.SAVE_EVERY
    known.put("a", ROW)
    assert not path_of(known).exists()


def test_every_few_seconds_what_there_is_is_saved(clock):
    """A kill asks no `with` block: what was saved is all that is left."""
    known = ResultCache(IDENTITY)
    known.put("a", ROW)
    clock.now += module.SAVE_EVERY + 0.1
    known.put("b", other(0.25))
    assert kept() == {"a": ROW, "b": other(0.25)}
    clock.now += module.SAVE_EVERY - 0.1
    known.put("c", ROW)
    assert set(kept()) == {"a", "b"}
    clock.now += 0.3
    known.put("d", ROW)
    assert set(kept()) == {"a", "b", "c", "d"}


@pytest.mark.slow
def test_a_killed_process_loses_what_was_not_saved_and_no_more(tmp_path):
    program = (
        "import os\n"
        "from repsim.studies.comparison import result_cache\n"
        "result_cache.SAVE_EVERY = -1.0\n"
        f"values = result_cache.ResultCache({IDENTITY!r})\n"
        f"values.put('a', {ROW!r})\n"
        "result_cache.SAVE_EVERY = 1000.0\n"
        f"values.put('b', {ROW!r})\n"
        "os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (9, "")
    assert kept() == {"a": ROW}


def test_nothing_is_written_where_nothing_is_new(monkeypatch):
    with ResultCache(IDENTITY):
        pass
    assert not paths.comparisons().exists()
    with ResultCache(IDENTITY) as known:
        known.put("a", ROW)
    monkeypatch.setattr(store, "write_record", lambda *_: pytest.fail("nothing is new"))
    with ResultCache(IDENTITY) as known:
        assert known["a"] == ROW


def test_what_was_saved_is_not_written_again(monkeypatch, clock):
    written, write = [], store.write_record
    monkeypatch.setattr(store, "write_record", lambda *a: written.append(1) or write(*a))
    with ResultCache(IDENTITY) as known:
        clock.now += module.SAVE_EVERY + 1
        known.put("a", ROW)
        assert len(written) == 1
    assert len(written) == 1


# -- beside others ------------------------------------------------------------------------------------------


def test_of_two_that_computed_the_same_the_last_to_save_is_right():
    """They are equal, but for a run that was told to compute again."""
    with ResultCache(IDENTITY) as first:
        first.put("a", other(0.1))
        with ResultCache(IDENTITY) as second:
            second.put("a", other(0.2))
    assert kept() == {"a": other(0.1)}


def test_many_at_once_lose_nothing(monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", -1.0)

    def work(name):
        with ResultCache(IDENTITY) as known:
            for count in range(8):
                known.put(f"{name}{count}", ROW)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(kept()) == {f"{name}{count}" for name in "abcd" for count in range(8)}


# -- what is there ------------------------------------------------------------------------------------------


def test_what_is_not_there_survives():
    """JSON has no NaN."""
    row = {"value": math.nan, "note": "dropped: 3 images, where 10 are wanted", "n": 3, "low": math.nan}
    with ResultCache(IDENTITY) as known:
        known.put("a", row)
    (found,) = kept().values()
    assert list(found) == sorted(row)
    assert math.isnan(found["value"])
    assert math.isnan(found["low"])
    assert (found["note"], found["n"]) == (row["note"], 3)
    assert content(path_of(known))["values"]["a"]["value"] is None


@pytest.mark.slow
@settings(max_examples=40)
@given(
    rows=st.dictionaries(
        st.text(max_size=8),
        st.fixed_dictionaries(
            {
                "value": st.floats(allow_infinity=False),
                "note": st.text(max_size=8),
                "n": st.integers(0, 2**40),
            }
        ),
        max_size=4,
    )
)
def test_any_row_comes_back_as_it_was(rows):
    identity = {"rows": repr(rows)}
    with ResultCache(identity, recompute=True) as known:
        for key, row in rows.items():
            known.put(key, row)
    found = kept(identity)
    assert found.keys() == rows.keys()
    for key, row in rows.items():
        assert found[key]["value"] == pytest.approx(row["value"], rel=0, abs=0, nan_ok=True)
        assert (found[key]["note"], found[key]["n"]) == (row["note"], row["n"])


def test_the_file_says_what_it_is_of():
    with ResultCache(IDENTITY) as known:
        known.put("a", ROW)
    assert path_of(known).parent == paths.comparisons()
    assert re.fullmatch(r"[0-9a-f]{12}\.json", path_of(known).name)
    found = content(path_of(known))
    del found["record_checksum"]
    assert found == {"identity": {"version": module.VERSION, **IDENTITY}, "values": {"a": ROW}}


def test_another_identity_is_another_file():
    with ResultCache(IDENTITY) as known:
        known.put("a", ROW)
    others = [
        {**IDENTITY, "images": "0" * 12},
        {**IDENTITY, "labels": "0" * 12},
        {"images": IDENTITY["images"]},
        {**IDENTITY, "attack": {"epsilon": 0.1}},
        {},
    ]
    found = [path_of(ResultCache(each)) for each in others]
    assert len({path_of(known), *found}) == 6
    assert all(kept(each) == {} for each in others)
    assert path_of(ResultCache(dict(reversed(IDENTITY.items())))) == path_of(known)


def test_of_another_version_nothing_is_known(monkeypatch):
    """Values that would come out differently now are computed again; those of before stay where they are."""
    with ResultCache(IDENTITY) as known:
        known.put("a", ROW)
    path = path_of(known)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert kept() == {}
    assert module.VALUES.listed(".") == []
    with ResultCache(IDENTITY) as newer:
        newer.put("a", other(0.25))
    assert path_of(newer) != path
    assert kept() == {"a": other(0.25)}
    monkeypatch.setattr(module, "VERSION", module.VERSION - 1)
    assert kept() == {"a": ROW}


# -- again --------------------------------------------------------------------------------------------------


def test_recompute_knows_nothing_and_replaces_what_it_is_given():
    with ResultCache(IDENTITY) as known:
        known.put("a", ROW)
        known.put("b", ROW)
    with ResultCache(IDENTITY, recompute=True) as again:
        assert "a" not in again
        again.put("a", other(0.75))
        assert again["a"] == other(0.75)
        assert "b" not in again
    assert kept() == {"a": other(0.75), "b": ROW}


def test_recompute_of_nothing_leaves_what_is_kept():
    with ResultCache(IDENTITY) as known:
        known.put("a", ROW)
    with pytest.raises(KeyboardInterrupt), ResultCache(IDENTITY, recompute=True):
        raise KeyboardInterrupt
    assert kept() == {"a": ROW}
