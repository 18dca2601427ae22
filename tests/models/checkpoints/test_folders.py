"""Folders of the hub, of timm and of torch.distributed.checkpoint; indices of parts; what stands beside."""

import json
import pickle
import re
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint
from torch.distributed.checkpoint import format_utils

from repsim.models.checkpoints import read_checkpoint

MEAN, STD = [0.49, 0.48, 0.44], [0.2, 0.19, 0.21]
OF_TIMM = {
    "architecture": "resnet18",
    "num_classes": 10,
    "pretrained_cfg": {"mean": MEAN, "std": STD, "input_size": [3, 48, 48]},
}
OF_TRANSFORMERS = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}


def refused(path, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_checkpoint(path)


def same(path, network, rebuilt, images):
    read = read_checkpoint(path)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(images), network(images))
    return read


@pytest.fixture
def folder(tmp_path, small, bare):
    """A folder, and a network whose normalisation is not in its weights."""
    network = small(mean=0.0, std=1.0)
    return tmp_path, network, bare(network)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_what_stands_beside_weights(folder, rebuilt, pixels, kind):
    path, network, weights = folder
    save_file(weights, path / "model.safetensors")
    torch.save({"state": {}}, path / "optimizer.pt")
    (path / "config.json").write_text(json.dumps(OF_TIMM if kind == "timm" else OF_TRANSFORMERS))
    source = "config.json"
    if kind == "transformers":
        source = "preprocessor_config.json"
        (path / source).write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    for given in (path, path / "model.safetensors"):
        read = same(given, lambda images: network((images - mean) / std), rebuilt, pixels())
        assert (read.mean, read.std) == (tuple(MEAN), tuple(STD))
        assert f"Its mean and deviation are from {source} beside it." in read.notes
        side = 48 if kind == "timm" else 32
        assert read.image_shape == (3, side, side)
    assert read_checkpoint(path, image_shape=(3, 64, 64)).image_shape == (3, 64, 64)


def test_a_config_beside_several_checkpoints_is_of_the_one_with_its_name(folder):
    path, _, weights = folder
    (path / "config.json").write_text(json.dumps(OF_TIMM))
    torch.save(weights, path / "best.pt")
    assert read_checkpoint(path / "best.pt").mean == tuple(MEAN)
    save_file(weights, path / "model.safetensors")
    assert read_checkpoint(path / "model.safetensors").mean == tuple(MEAN)
    read = read_checkpoint(path / "best.pt")
    note = "config.json beside it says resnet18: it may be of another file there, and was not heeded."
    assert read.mean is None
    assert note in read.notes


def test_a_processor_that_does_not_normalise(folder):
    path, _, weights = folder
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(OF_TRANSFORMERS))
    (path / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": False, "image_mean": MEAN, "image_std": STD})
    )
    read = read_checkpoint(path)
    assert (read.mean, read.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"learning_rate": 0.1, "mean": [1], "std": [1]}'])
def test_a_config_of_something_else_says_nothing(folder, content):
    path, _, weights = folder
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(content)
    read = read_checkpoint(path)
    assert read.mean is None
    assert not any("config.json" in note for note in read.notes)


@pytest.fixture
def parts(folder):
    path, network, weights = folder
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    placed = {key: names[index % 2] for index, key in enumerate(weights)}
    for name in names:
        save_file({key: value for key, value in weights.items() if placed[key] == name}, path / name)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return path, network, names


def test_parts_are_read_by_their_index(parts, rebuilt, pixels):
    path, network, (first, second) = parts
    whole = same(path, network, rebuilt, pixels())
    named = same(path / "model.safetensors.index.json", network, rebuilt, pixels())
    assert named.checksum == whole.checksum
    refused(path / first, f"{path / first} is one of 2 parts of a checkpoint: give the folder {path}.")
    (path / second).unlink()
    index = path / "model.safetensors.index.json"
    refused(
        path,
        f"{index} names 2 files, and 1 of them are not beside it ({second}): fetch them into {path}.",
    )
    index.write_text("{}")
    refused(path, f"{index} is no index of a checkpoint's parts: it has no weight_map.")


def test_an_index_reaches_no_file_elsewhere(parts, tmp_path_factory):
    path, _, (first, _) = parts
    elsewhere = tmp_path_factory.mktemp("elsewhere") / first
    (path / first).rename(elsewhere)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": str(elsewhere)}}))
    with pytest.raises(ValueError, match=r"names 1 files, and 1 of them are not beside it"):
        read_checkpoint(path)


def test_the_only_checkpoint_of_a_folder(folder, rebuilt, pixels):
    path, network, weights = folder
    refused(
        path, f"{path} is a folder without a checkpoint (it holds no file): give the file with the weights."
    )
    (path / "log.txt").touch()
    refused(
        path, f"{path} is a folder without a checkpoint (it holds log.txt): give the file with the weights."
    )
    (path / "checkpoints").mkdir()
    torch.save(weights, path / "checkpoints" / "last.ckpt")
    refused(
        path,
        f"{path} is a folder whose checkpoints are in folders of it: give one of them "
        "(checkpoints/last.ckpt).",
    )
    torch.save(weights, path / "a.pt")
    same(path, network, rebuilt, pixels())
    torch.save(weights, path / "b.pth.tar")
    refused(path, f"{path} is a folder with several checkpoints: give one of them (a.pt, b.pth.tar).")


# torch.distributed.checkpoint


@pytest.fixture
def distributed(folder):
    path, network, weights = folder
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    content = {"model": weights, "optim": optimizer.state_dict(), "epoch": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is the only process
        checkpoint.save(content, checkpoint_id=path / "step")
    return path / "step", network


def test_a_distributed_checkpoint(distributed, rebuilt, pixels):
    path, network = distributed
    read = same(path, network, rebuilt, pixels())
    assert read.format == "checkpoint with its weights as 'model'"
    (part,) = path.glob("*.distcp")
    refused(part, f"{part} is one part of a distributed checkpoint: give its folder, {path}.")
    part.unlink()
    with pytest.raises(RuntimeError, match=r"is no whole folder of torch\.distributed\.checkpoint"):
        read_checkpoint(path)


class Attack:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (eval, (f"open({str(self.path)!r}, 'w').close()",))


def test_an_index_that_holds_code_is_refused(distributed, tmp_path):
    path, _ = distributed
    index = (path / ".metadata").read_bytes()
    (path / ".metadata").write_bytes(pickle.dumps(Attack(tmp_path / "sign")))
    with pytest.raises(
        ValueError, match=r"holds more than descriptions of tensors \(builtins\.eval\)"
    ) as refusal:
        read_checkpoint(path)
    assert not (tmp_path / "sign").exists()
    (path / ".metadata").write_bytes(index)
    command = str(refusal.value).splitlines()[-1]
    module, action, source, target = command.split()[2:]
    assert (module, action) == (format_utils.__name__, "dcp_to_torch")
    format_utils.dcp_to_torch_save(source, target)
    assert read_checkpoint(target).architecture == "wrn_tiny"
