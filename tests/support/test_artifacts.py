"""What was kept is there whole or not at all, and is recognised when it is not what was written."""

import errno
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from repsim.support import artifacts

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
RECIPES = st.dictionaries(st.text(), PLAIN, max_size=5)


def turned_round(value):
    """The same value with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: turned_round(value[key]) for key in reversed(value)}
    return [turned_round(item) for item in value] if isinstance(value, list) else value


def python(code, *arguments, **options):
    """Start Python on some code that has `artifacts`, `Path` and `sys`."""
    preamble = "import sys\nfrom pathlib import Path\nfrom repsim.support import artifacts\n"
    command = [sys.executable, "-c", preamble + code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


# -- addresses ----------------------------------------------------------------------------------------------


@given(RECIPES)
def test_the_order_of_keys_does_not_change_the_address(recipe):
    assert artifacts.address(recipe) == artifacts.address(turned_round(recipe))
    assert len(artifacts.address(recipe)) == artifacts.ADDRESS_LENGTH


@pytest.mark.slow
@given(RECIPES, st.text(), PLAIN)
def test_any_change_of_a_value_changes_the_address(recipe, key, value):
    changed = {
        **recipe,
        key: [value, recipe.get(key)],
    }  # a list around what was there is never what was there
    assert artifacts.address(recipe) != artifacts.address(changed)


def test_an_address_is_the_same_in_every_process():
    canonical = rb'{"epsilon":0.5,"name":"\u03b5","seed":0}'
    expected = hashlib.sha256(canonical).hexdigest()[: artifacts.ADDRESS_LENGTH]
    assert artifacts.address({"seed": 0, "epsilon": 0.5, "name": "ε"}) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_hold_has_no_address(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.address({"epsilon": value})


# -- atomic writing -----------------------------------------------------------------------------------------


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def assert_only(path, content):
    assert path.read_text() == content
    assert os.listdir(path.parent) == [path.name]


def test_a_file_appears_whole_and_anyone_may_read_it(tmp_path):
    path = tmp_path / "made" / "on the way" / "kept.txt"
    with artifacts.atomic(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert_only(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_failing_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def fail_halfway():
        with artifacts.atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise InterruptedError("halfway")

    with pytest.raises(InterruptedError, match="halfway"):
        fail_halfway()
    assert_only(path, "old")


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace"), (Path, "write_text")])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, owner, name):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    monkeypatch.setattr(owner, name, no_space)
    with pytest.raises(OSError, match="No space left on device"), artifacts.atomic(path) as temporary:
        temporary.write_text("new")
    monkeypatch.undo()
    assert_only(path, "old")


def test_a_full_disk_leaves_the_old_tensors(tmp_path, monkeypatch):
    path = tmp_path / "kept.safetensors"
    path.write_text("old")
    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OSError, match="No space left on device"):
        artifacts.write_tensors(path, {"weight": torch.ones(3)})
    assert_only(path, "old")


def test_a_file_that_grows_too_large_leaves_the_old_tensors(tmp_path):
    """As a full disk does, but in the midst of safetensors' own writing."""
    path = tmp_path / "kept.safetensors"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(Exception, match="File too large"):
            artifacts.write_tensors(path, {"weight": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_only(path, "old")


def test_a_new_file_that_fails_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)
    with (
        pytest.raises(OSError, match="No space left on device"),
        artifacts.atomic(tmp_path / "kept.txt") as temporary,
    ):
        temporary.write_text("new")
    assert os.listdir(tmp_path) == []


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    code = """
with artifacts.atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    print("writing", flush=True)
    sys.stdin.read()"""
    with python(code, path) as writer:
        assert writer.stdout.readline() == "writing\n"
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = [name for name in os.listdir(tmp_path) if name != "kept.txt"]
    assert left.startswith(".kept.txt.")
    assert left.endswith(".partial")  # which git ignores


# -- locks --------------------------------------------------------------------------------------------------


def test_a_lock_keeps_a_second_process_out(tmp_path):
    path = tmp_path / "made" / "model.json"
    code = """
print("here", flush=True)
with artifacts.locked(Path(sys.argv[1])):
    print("inside", Path(sys.argv[1]).read_text(), flush=True)"""
    with artifacts.locked(path):
        second = python(code, path)
        assert second.stdout.readline() == "here\n"
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.3)
        path.write_text("finished")
    assert second.communicate(timeout=10)[0] == "inside finished\n"
    assert second.returncode == 0


def test_a_lock_ends_with_the_process_that_held_it(tmp_path):
    path = tmp_path / "model.json"
    code = """
with artifacts.locked(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()"""
    with python(code, path) as holder:
        assert holder.stdout.readline() == "inside\n"
        holder.kill()
    with artifacts.locked(path):
        pass


# -- tensors ------------------------------------------------------------------------------------------------


def test_tensors_come_back(tmp_path):
    path = tmp_path / "weights.safetensors"
    grid = torch.arange(24.0).reshape(2, 3, 2, 2)
    tied = torch.randn(4, 4, requires_grad=True)
    written = {
        "channels last": grid.to(memory_format=torch.channels_last),
        "half": torch.tensor([1.5, -0.1], dtype=torch.float16),
        "transposed": grid[0, :, 0].T,
        "slice": grid[1:],
        "whole": grid,
        "tied": tied,
        "tied again": tied,
        "count": torch.tensor(7),  # no dimension, whole numbers: what batch normalisation counts with
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
    }
    digest = artifacts.write_tensors(path, written)
    read = load_file(path)
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
        assert read[name].is_contiguous()
    assert digest == artifacts.checksum(path)
    assert os.listdir(tmp_path) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_equal_tensors_make_equal_files(tmp_path):
    grid = torch.arange(24.0).reshape(2, 3, 2, 2)
    same = grid.to(memory_format=torch.channels_last)
    digests = [
        artifacts.write_tensors(tmp_path / str(index), {"grid": grid})
        for index, grid in enumerate((grid, same))
    ]
    assert digests[0] == digests[1]


# -- digests ------------------------------------------------------------------------------------------------

GRID = torch.arange(24).reshape(2, 3, 2, 2)


def digest_by_hand(*tensors):
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:12]


@pytest.mark.parametrize(
    "tensor",
    [
        GRID,
        GRID.float() / 7,
        GRID.half(),
        GRID.byte(),
        GRID > 5,
        torch.tensor(7),
        torch.empty(0, 3),
        GRID[0, :, 0].T,
        GRID[:, ::2, :, 1],
        GRID[:1].expand(4, 3, 2, 2),
        GRID.float().to(memory_format=torch.channels_last),
    ],
    ids=str,
)
def test_a_digest_is_of_the_bytes_in_their_order(tensor):
    """Whatever the order in memory is: NumPy, too, has the last axis run fastest."""
    before = tensor.clone()
    assert artifacts.digest(tensor) == digest_by_hand(tensor)
    assert artifacts.digest(tensor) == artifacts.digest(tensor.contiguous())
    assert len(artifacts.digest(tensor)) == artifacts.ADDRESS_LENGTH
    assert torch.equal(tensor, before)


def test_a_digest_of_several_tensors_is_of_all():
    a, b = GRID.float(), GRID.flip(0)
    assert artifacts.digest(a, b) == digest_by_hand(a, b)
    found = [artifacts.digest(*each) for each in ([a, b], [b, a], [a], [b], [a, a], [])]
    assert len(set(found)) == len(found)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=8), st.data())
def test_any_change_of_a_value_changes_the_digest(values, data):
    place = data.draw(st.integers(0, len(values) - 1))
    changed = [*values]
    changed[place] += data.draw(st.integers(1, 9))
    one, other = torch.tensor(values), torch.tensor(changed)
    assert artifacts.digest(one) == artifacts.digest(one.clone())
    assert artifacts.digest(one) != artifacts.digest(other)
    assert artifacts.digest(one.double()) != artifacts.digest(other.double())


def test_the_kind_of_number_changes_the_digest():
    found = {
        artifacts.digest(GRID.to(kind)) for kind in (torch.int64, torch.int32, torch.uint8, torch.float32)
    }
    assert len(found) == 4


def test_a_digest_is_the_same_in_every_version():
    """What is committed is addressed by it."""
    assert artifacts.digest(torch.tensor([0, 127, 255], dtype=torch.uint8)) == "4234f1064f32"
    assert artifacts.digest(torch.arange(3), torch.tensor([0.5])) == "d063515a4de2"
