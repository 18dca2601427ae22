"""One contract for every kind of stored thing: made once, found again, never read when damaged."""

import dataclasses
import json
import re
import shutil
import threading
import types
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from repsim.attacks import Attack
from repsim.data import load_data
from repsim.store import store
from repsim.store.artifact import Draft
from repsim.store.store import Store
from repsim.studies.comparison import result_cache
from repsim.studies.inversion import InversionOptions, InversionRecipe, Pairs, obtain_inverted
from repsim.studies.inversion import store as inversion
from repsim.studies.probing import ProbeOptions, obtain_probes
from repsim.studies.probing import store as probing
from repsim.studies.stitching import Evaluation, StitchOptions, StitchRecipe, obtain_stitch
from repsim.studies.stitching import store as stitching
from repsim.support import paths
from repsim.support.artifacts import DamagedArtifact
from repsim.training import model_store, zoo
from repsim.training.recipe import Recipe

LAYER = "hidden.3"


@cache
def data():
    return load_data("digits", train_size=200, test_size=60)


@cache
def donor(epsilon=0.0):
    return model_store.find(zoo.recipes(load_data("digits"), ["mlp"], [epsilon], [0])[0], "cpu")


@cache
def evaluation(epsilon=0.1):
    return Evaluation(data(), Attack(epsilon, steps=1), device="cpu")


@cache
def pairs():
    return Pairs.draw(data(), 4, keep=False)


def network(which=0, again=False):
    options = {"epochs": 3, "batch_size": 100, "save_every": 1, "seed": which}
    recipe = Recipe.on(data(), "mlp", **options)
    return model_store.obtain(recipe, data(), retrain=again, device="cpu", progress=False)


def stitch(which=0, again=False):
    options = StitchOptions(method=("pseudo_inverse", "orthogonal")[which])
    recipe = StitchRecipe.of(donor(), donor(0.1), LAYER, LAYER, data(), options)
    return obtain_stitch(recipe, evaluation(), recompute=again)


def inverted_set(which=0, again=False):
    options = InversionOptions(iterations=2 + which, tolerance=0.0)
    recipe = InversionRecipe.of(donor(), pairs(), "penultimate", options)
    how = {"batch_size": 2, "recompute": again, "progress": False}
    return obtain_inverted(recipe, donor(), data(), pairs(), **how)


def probe(which=0, again=False):
    options = [ProbeOptions(penalty=0.01 + which)]
    return obtain_probes([donor()], data(), options, LAYER, recompute=again, progress=False)[0]


def values(which=0, again=False):
    with result_cache.ResultCache({"images": f"{which}" * 12}, again) as cache:
        if "a" not in cache:
            cache.put("a", result_cache.compute(which))
    return result_cache.VALUES.find(cache.recipe)


def compute(which):
    return {"value": 0.5 + which, "note": "", "n": 20, "low": float("nan")}


@dataclasses.dataclass
class Kind:
    """How one kind is made, where its store is, and what works when one is made."""

    obtain: types.FunctionType
    module: types.ModuleType
    constant: str
    work: str
    parts: int = 0  # in which one is made

    @property
    def store(self):
        return getattr(self.module, self.constant)


KINDS = {
    "network": Kind(network, model_store, "MODELS", "train", 3),
    "stitch": Kind(stitch, stitching, "STITCHES", "stitch"),
    "inverted set": Kind(inverted_set, inversion, "INVERTED", "invert", 2),
    "probe": Kind(probe, probing, "PROBES", "fit_probe"),
    "comparison values": Kind(values, result_cache, "VALUES", "compute"),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
with_tensors = pytest.mark.parametrize("kind", list(KINDS.values())[:4], ids=list(KINDS)[:4])
in_parts = pytest.mark.parametrize(
    "kind", [k for k in KINDS.values() if k.parts], ids=["network", "inverted"]
)


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path):
    """Every kind is looked for in two folders, of which the second is as a committed one; and donors."""
    monkeypatch.setattr(result_cache, "compute", compute, raising=False)
    found, donors = (tmp_path / "own", tmp_path / "committed"), paths.models()[-1:]
    for name, kind in KINDS.items():
        own = [folder / name for folder in found] + (donors if name == "network" else [])
        replaced = dataclasses.replace(kind.store, folders=lambda own=own: own)
        monkeypatch.setattr(kind.module, kind.constant, replaced)
    return found


def worked(kind, monkeypatch):
    """From now on, a list with one entry for each piece of work that is done."""
    original, calls = getattr(kind.module, kind.work), []
    monkeypatch.setattr(kind.module, kind.work, lambda *a, **o: calls.append(1) or original(*a, **o))
    return calls


def content(artifact):
    """All that is read of an artifact."""
    return artifact.record, {suffix: artifact.tensors(suffix) for suffix in artifact.checksums}


def same(one, other):
    (record, tensors), (others, theirs) = content(one), content(other)
    return record == others and all(
        torch.equal(tensor, theirs[suffix][name])
        for suffix, named in tensors.items()
        for name, tensor in named.items()
    )


def snapshot(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def listed(kind, group):
    found = {each.path for each in kind.store.listed(group)}
    return {path for path in found if not path.is_relative_to(paths.models()[-1])}  # which has the donors


def tensor_files(artifact):
    return [Draft(artifact.path).file(suffix) for suffix in artifact.checksums]


def refused(read, file, record, reason=" is damaged or was altered (", end=""):
    with pytest.raises(DamagedArtifact) as error:
        read()
    text = str(error.value)
    assert text.startswith(f"{file}{reason}")
    assert text.endswith(f"{end}: remove {record.name} to make it again.")


def flips(content, step):
    """The content with one bit turned, at every `step`-th byte; and cut off, at some."""
    for place in range(0, len(content), step):
        yield content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :]
    for length in (0, 1, len(content) // 2, len(content) - 2):  # the last byte of a record says nothing
        yield content[:length]


# -- made once ----------------------------------------------------------------------------------------------


@every_kind
def test_found_again_after_being_made(kind, monkeypatch, folders):
    calls = worked(kind, monkeypatch)
    first = kind.obtain()
    count = len(calls)
    assert count > 0
    assert same(kind.obtain(), first)
    assert same(kind.store.find(first.recipe), first)
    assert len(calls) == count
    assert first.path == kind.store.path(first.recipe)
    left = {first.path.name, *(file.name for file in tensor_files(first))}
    assert {path.name for path in snapshot(folders[0])} == left
    assert str(folders[0]) not in first.path.read_text(encoding="utf-8")


@pytest.mark.matrix("probe", "comparison values")
@every_kind
def test_made_again_when_asked_and_to_the_same_end(kind, monkeypatch, folders):
    first = kind.obtain()
    before = snapshot(folders[0])
    calls = worked(kind, monkeypatch)
    kind.obtain(again=True)
    assert calls
    assert snapshot(folders[0]) == before
    assert same(kind.store.find(first.recipe), first)


@pytest.mark.matrix("probe", "comparison values")
@every_kind
def test_equal_recipes_are_one_artifact_and_others_another(kind):
    one, other = kind.obtain(), kind.obtain(1)
    assert kind.store.recipe.restored(one.record).address == one.recipe.address
    assert one.path != other.path
    assert listed(kind, one.recipe.group) == {one.path, other.path}
    assert kind.store.listed("nothing of it") == []


@pytest.mark.matrix("probe")
@with_tensors
def test_two_that_ask_at_once_make_it_once(kind, monkeypatch):
    alone = worked(kind, monkeypatch)
    kind.obtain(1)  # how many calls it takes, and all that is shared is there
    once, look, both, looked = len(alone), Store.find, threading.Barrier(2), set()

    def wait(own, recipe):
        found = look(own, recipe)
        if own.title == kind.store.title and threading.get_ident() not in looked:
            looked.add(threading.get_ident())
            both.wait(60)  # neither takes the lock before both have seen that there is none
        return found

    monkeypatch.setattr(Store, "find", wait)
    results = []
    threads = [threading.Thread(target=lambda: results.append(kind.obtain())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(alone) == 2 * once
    assert same(*results)


def test_rows_of_several_at_once_are_all_kept():
    first, second = (result_cache.ResultCache({"images": "0" * 12}) for _ in range(2))
    with first, second:
        first.put("a", compute(0))
        second.put("b", compute(1))
    assert set(result_cache.VALUES.find(first.recipe).rows) == {"a", "b"}


@pytest.mark.slow
def test_stitches_measured_by_several_at_once_have_all_rows():
    stored = stitch()
    rows = [
        threading.Thread(target=obtain_stitch, args=(stored.recipe, evaluation(level)))
        for level in (0.2, 0.3)
    ]
    for thread in rows:
        thread.start()
    for thread in rows:
        thread.join(120)
    found = stitching.STITCHES.find(stored.recipe).record["measured"]
    assert sorted(row["attack_epsilon"] for row in found) == [0.1, 0.2, 0.3]


# -- a second folder ----------------------------------------------------------------------------------------


@pytest.mark.matrix("probe", "comparison values")
@every_kind
def test_a_second_folder_is_read_and_never_written(kind, monkeypatch, folders):
    own, committed = folders
    first = kind.obtain()
    shutil.move(own, committed)
    before = snapshot(committed)
    calls = worked(kind, monkeypatch)
    found = kind.obtain()
    assert calls == []
    assert found.path.is_relative_to(committed)
    assert found.record == first.record
    assert listed(kind, first.recipe.group) == {found.path}
    kind.obtain(again=True)
    assert kind.store.find(first.recipe).path.is_relative_to(own)
    assert snapshot(committed) == before


def test_what_is_added_to_a_committed_one_is_the_users_own(folders):
    own, committed = folders
    stored, rows = stitch(), values()
    shutil.move(own, committed)
    before = snapshot(committed)
    more = obtain_stitch(stored.recipe, evaluation(0.2))
    assert more.path.is_relative_to(own)
    assert len(more.record["measured"]) == 2
    assert same(
        dataclasses.replace(more, record={**more.record, "measured": stored.record["measured"]}), stored
    )
    with result_cache.ResultCache(rows.recipe.values) as cache:
        cache.put("b", compute(1))
    assert set(result_cache.VALUES.find(rows.recipe).rows) == {"a", "b"}
    assert snapshot(committed) == before


# -- damage -------------------------------------------------------------------------------------------------


@pytest.mark.matrix("probe", "comparison values")
@every_kind
def test_a_damaged_record_is_told(kind):
    stored = kind.obtain()
    whole = stored.path.read_bytes()
    for damaged in flips(whole, 1 + len(whole) // 400):
        stored.path.write_bytes(damaged)
        refused(lambda: kind.store.find(stored.recipe), stored.path, stored.path)
    refused(kind.obtain, stored.path, stored.path)
    kind.obtain(again=True)
    assert stored.path.read_bytes() == whole


@pytest.mark.matrix("probe")
@every_kind
@pytest.mark.parametrize("text", ["[1, 2]", "{}", '{"recipe": {}, "identity": 3, "values": []}'])
def test_what_is_no_record_is_told(kind, text):
    stored = kind.obtain()
    stored.path.write_text(text, encoding="utf-8")
    refused(lambda: kind.store.find(stored.recipe), stored.path, stored.path)


@pytest.mark.matrix("probe", "comparison values")
@every_kind
def test_a_record_of_another_recipe_is_told(kind):
    one, other = kind.obtain(), kind.obtain(1)
    one.path.write_bytes(other.path.read_bytes())
    reason = " is damaged or was altered (its recipe is another's)"
    refused(lambda: kind.store.find(one.recipe), one.path, one.path, reason)


@pytest.mark.matrix("probe", "comparison values")
@every_kind
def test_a_record_from_before_there_were_checksums_is_read(kind):
    stored = kind.obtain()
    stored.path.write_text(json.dumps(stored.record), encoding="utf-8")
    assert same(kind.store.find(stored.recipe), stored)


@pytest.mark.matrix("probe", "comparison values")
@every_kind
def test_what_has_no_record_is_made_again(kind):
    stored = kind.obtain()
    expected = content(stored)[0]
    stored.path.unlink()
    for file in tensor_files(stored):
        file.write_bytes(b"half")
    assert kind.store.find(stored.recipe) is None
    assert content(kind.obtain())[0] == expected


@pytest.mark.matrix("probe")
@with_tensors
def test_missing_and_damaged_tensors_are_told(kind):
    stored = kind.obtain()
    for suffix, file in zip(stored.checksums, tensor_files(stored), strict=True):
        whole = file.read_bytes()
        for damaged in flips(whole, 1 + len(whole) // 40):
            file.write_bytes(damaged)
            found = kind.store.find(stored.recipe)
            refused(lambda found=found, suffix=suffix: found.tensors(suffix), file, stored.path)
        file.unlink()
        found = kind.store.find(stored.recipe)
        refused(lambda found=found, suffix=suffix: found.tensors(suffix), file, stored.path, " is missing")
        stored.path.unlink()  # as the message says
        assert same(kind.obtain(), stored)


# -- interruptions ------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.matrix("probe")
@with_tensors
def test_a_kill_before_the_record_leaves_no_record_of_other_tensors(kind, monkeypatch, folders):
    stored = kind.obtain()
    expected = snapshot(folders[0])

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_record", kill)
        with pytest.raises(Killed):
            kind.obtain(again=True)
    assert kind.store.find(stored.recipe) is None
    kind.obtain()
    assert snapshot(folders[0]) == expected


@pytest.mark.matrix("probe")
@with_tensors
def test_a_failure_before_anything_is_written_leaves_what_is_stored(kind, monkeypatch, folders):
    kind.obtain()
    expected = snapshot(folders[0])

    def fail(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kind.module, kind.work, fail)
        with pytest.raises(Killed):
            kind.obtain(again=True)
    assert snapshot(folders[0]) == expected


def killed(kind, monkeypatch, again=False):
    """Kill the making of the last part: the files that are left to go on from."""
    original, calls = getattr(kind.module, kind.work), []

    def until(*args, on_epoch=None, **options):
        calls.append(1)
        if on_epoch is None:
            if len(calls) == kind.parts:
                raise Killed
            return original(*args, **options)

        def epoch(number, trained):
            if number == kind.parts:
                raise Killed
            on_epoch(number, trained)

        return original(*args, on_epoch=epoch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kind.module, kind.work, until)
        with pytest.raises(Killed):
            kind.obtain(again=again)
    (left,) = kind.store.folders()[0].rglob("*.parts")
    return sorted(left.iterdir())


def made(kind, monkeypatch):
    """From now on, a list with one entry for each part that is made."""
    if kind.work != "train":
        return worked(kind, monkeypatch)
    original, calls = kind.module.train, []

    def watched(*args, on_epoch, **options):
        return original(*args, on_epoch=lambda *a: calls.append(1) or on_epoch(*a), **options)

    monkeypatch.setattr(kind.module, "train", watched)
    return calls


@pytest.mark.matrix("inverted")
@in_parts
def test_interrupted_making_goes_on(kind, monkeypatch, folders):
    whole = kind.obtain()
    expected = snapshot(folders[0])
    shutil.rmtree(folders[0])
    assert killed(kind, monkeypatch)
    assert kind.store.find(whole.recipe) is None
    calls = made(kind, monkeypatch)
    kind.obtain()
    assert len(calls) == 1
    assert snapshot(folders[0]) == expected


@pytest.mark.matrix("inverted")
@in_parts
def test_a_damaged_part_is_made_again_with_a_note(kind, monkeypatch, folders):
    kind.obtain()
    expected = snapshot(folders[0])
    shutil.rmtree(folders[0])
    for number in range(len(killed(kind, monkeypatch))):
        for damage in (0, 1, 2):
            shutil.rmtree(folders[0])
            part = killed(kind, monkeypatch)[number]
            part.write_bytes(list(flips(part.read_bytes(), 1 + part.stat().st_size // 2))[damage])
            with pytest.warns(UserWarning, match=re.escape(f"{part} is damaged or was altered: it is made")):
                kind.obtain()
            assert snapshot(folders[0]) == expected


@pytest.mark.matrix("inverted")
@in_parts
def test_making_again_takes_no_part_of_an_earlier_run(kind, monkeypatch, folders):
    whole = kind.obtain()
    expected = snapshot(folders[0])
    killed(kind, monkeypatch, again=True)
    assert same(kind.store.find(whole.recipe), whole)
    calls = made(kind, monkeypatch)
    kind.obtain(again=True)
    assert len(calls) == kind.parts
    assert snapshot(folders[0]) == expected


# -- packed -------------------------------------------------------------------------------------------------


@pytest.fixture
def pack(folders):
    """Two stitches in a pack, and none of their own files."""
    own = [stitch(0), stitch(1)]
    before = [content(each) for each in own]
    path = stitching.pack("digits")
    assert {file.name for file in snapshot(folders[0])} == {"committed.json.gz", "committed.safetensors"}
    return types.SimpleNamespace(
        path=path, tensors=path.with_name("committed.safetensors"), own=own, before=before
    )


def test_packed_ones_are_found_and_listed(pack, monkeypatch, folders):
    calls = worked(KINDS["stitch"], monkeypatch)
    for which, (record, tensors) in enumerate(pack.before):
        found = stitch(which)
        assert {**found.record, "checksum": ""} == {**record, "checksum": ""}
        assert found.tensors().keys() == tensors[""].keys()
        assert all(torch.equal(found.tensors()[name], tensors[""][name]) for name in tensors[""])
    assert calls == []
    assert {each.recipe for each in stitching.stored_stitches("digits")} == {e.recipe for e in pack.own}
    before = snapshot(folders[0])
    assert stitching.pack("digits") == pack.path
    assert snapshot(folders[0]) == before


@pytest.mark.slow
def test_packing_takes_what_has_come_since(pack, folders):
    before = pack.path.read_bytes(), pack.tensors.read_bytes()
    more = obtain_stitch(pack.own[0].recipe, evaluation(0.2))
    assert more.path.name != pack.path.name
    assert torch.equal(more.tensors()["transform.full"], pack.before[0][1][""]["transform.full"])
    assert stitching.find_stitch(pack.own[1].recipe).path == pack.path
    assert (pack.path.read_bytes(), pack.tensors.read_bytes()) == before
    assert {e.path for e in stitching.stored_stitches("digits")} == {pack.path, more.path}
    stitching.pack("digits")
    assert len(snapshot(folders[0])) == 2
    assert len(stitching.find_stitch(more.recipe).record["measured"]) == 2


def test_packing_leaves_what_another_process_has_changed(folders, monkeypatch):
    stored = stitch()
    packs = Store._remove_packed

    def changed(own, packed):
        obtain_stitch(stored.recipe, evaluation(0.2))  # after the pack was written
        packs(own, packed)

    monkeypatch.setattr(Store, "_remove_packed", changed)
    stitching.pack("digits")
    assert len(stitching.find_stitch(stored.recipe).record["measured"]) == 2


def test_a_damaged_pack_is_told(pack):
    recipe = pack.own[0].recipe
    whole = pack.tensors.read_bytes()
    for damaged in flips(whole, 1 + len(whole) // 20):
        pack.tensors.unlink()
        pack.tensors.write_bytes(damaged)
        refused(lambda: stitching.find_stitch(recipe).tensors(), pack.tensors, pack.path)
    pack.tensors.unlink()
    refused(lambda: stitching.find_stitch(recipe).tensors(), pack.tensors, pack.path, " is missing")
    whole = pack.path.read_bytes()
    for length in (0, 20, len(whole) // 2, len(whole) - 1):
        pack.path.unlink()
        pack.path.write_bytes(whole[:length])
        refused(lambda: stitching.find_stitch(recipe), pack.path, pack.path)


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["nope", "digit", "../../x", "..", "."])
def test_a_pack_of_nothing_is_refused(name, folders):
    with pytest.raises(ValueError, match="there is no data set with stitches at all"):
        stitching.pack(name)
    assert snapshot(folders[0].parent) == {}
    stitch()
    before = snapshot(folders[0].parent)
    with pytest.raises(ValueError, match=rf"^unknown data set with stitches {name!r}.*nown: digits\.$"):
        stitching.pack(name)
    assert snapshot(folders[0].parent) == before
    assert load_file(stitch().file)
