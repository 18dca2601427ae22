"""What is said of files that are no checkpoint, of no known network, or that would run code."""

import re

import dill
import pytest
import torch
from safetensors.torch import save_file

from repsim.models.checkpoints import read_checkpoint
from repsim.support.artifacts import DamagedArtifact

NAME_IT = (
    "Name its class: architecture='mymodule:Net' for a class of your own, 'timm:NAME' or 'torchvision:NAME' "
    "for one of theirs."
)
PAGE = b"""
<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Sorry.</body></html>"""


def refused(path, kind, message, **options):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        read_checkpoint(path, **options)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", DamagedArtifact, "is empty (0 bytes): fetch it again."),
        (
            PAGE,
            ValueError,
            "is a web page ('Google Drive - Quota exceeded'), not a checkpoint: the server answered with a "
            "page instead of the file. Open the address in a browser, and save the file itself.",
        ),
        (
            b"<html><body>404</body></html>",
            ValueError,
            "is a web page, not a checkpoint: the server answered with a page instead of the file. Open the "
            "address in a browser, and save the file itself.",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44700000\n",
            ValueError,
            "is a Git LFS pointer, which stands for a file that was not fetched: run 'git lfs pull' in its "
            "repository.",
        ),
        (
            b"# A text\n",
            DamagedArtifact,
            "(9 bytes) is in no format of PyTorch or safetensors: fetch it again.",
        ),
        (
            b"\x80\x02",
            DamagedArtifact,
            "(2 bytes) is in no format of PyTorch or safetensors: fetch it again.",
        ),
    ],
    ids=["empty", "titled page", "page", "pointer", "text", "beginning of a pickle"],
)
def test_no_checkpoint_at_all(tmp_path, content, kind, message):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    refused(path, kind, f"{path} {message}")
    refused(path, kind, f"{path} {message}", trust_pickle=True)


def test_cut_off(tmp_path, small):
    path = tmp_path / "weights.pt"
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])
    refused(path, DamagedArtifact, f"{path} (20,000 bytes) ends too early: fetch it again.")
    path = tmp_path / "weights.safetensors"
    save_file(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(
        DamagedArtifact, match=rf"^{re.escape(str(path))} is no whole safetensors file \(.*\): fetch"
    ):
        read_checkpoint(path)


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "resnet18_l2_eps3.ckpt").touch()
    path = tmp_path / "resnet18_l2_esp3.ckpt"
    refused(path, ValueError, f"there is no file {path}; did you mean resnet18_l2_eps3.ckpt?")
    refused(tmp_path / "x", ValueError, f"there is no file {tmp_path / 'x'}.")
    path = tmp_path / "nowhere" / "x.pt"
    refused(path, ValueError, f"there is no file {path}: its folder does not exist.")
    refused(tmp_path, ValueError, f"{tmp_path} is a folder, not a checkpoint file.")


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"epoch": 3, "loss": [0.1]}, "a mapping of 'epoch', 'loss'"),
        ({"model": {"a": 1.0}}, "a mapping of 'model'"),
        ({}, "a mapping of nothing"),
        (torch.zeros(3), "a Tensor"),
        ([torch.zeros(3)], "a list"),
    ],
)
def test_a_file_without_weights(tmp_path, content, held):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    message = f"{path} holds no weights of a network: it is {held}. Expected names → tensors."
    refused(path, ValueError, message)


# another network


def test_another_architecture_than_was_named(tmp_path, small):
    path = tmp_path / "weights.pt"
    torch.save(small("vgg_tiny", (3, 32, 32)).state_dict(), path)
    refused(
        path,
        ValueError,
        f"{path} is no mlp (1 of its 8 entries are there).\n"
        "  missing: hidden.0.weight (nearest: features.0.weight), hidden.0.bias, hidden.2.weight, "
        "hidden.2.bias, hidden.4.weight (nearest: features.4.weight), … (6 in all)\n"
        "  unexpected: features.0.weight (nearest: hidden.0.weight), features.1.weight, features.1.bias, "
        "features.1.running_mean, features.1.running_var, … (36 in all)\n"
        "  wrong shape: classifier.weight is (10, 32), should be (10, 64)",
        architecture="mlp",
    )


def test_the_nearest_names_are_beside_what_differs(tmp_path, small):
    path, state = tmp_path / "weights.pt", small("mlp", (1, 16, 16)).state_dict()
    torch.save({key.replace("classifier", "classifer"): value for key, value in state.items()}, path)
    refused(
        path,
        ValueError,
        f"{path} is no mlp (6 of its 8 entries are there).\n"
        "  missing: classifier.weight (nearest: classifer.weight), classifier.bias (nearest: "
        "classifer.bias)\n"
        "  unexpected: classifer.weight (nearest: classifier.weight), classifer.bias (nearest: "
        "classifier.bias)",
        architecture="mlp",
        image_shape=(1, 16, 16),
    )


@pytest.mark.parametrize(
    ("built", "named", "expected"),
    [
        ({"shape": (1, 32, 32)}, "wrn_tiny", None),  # how many channels and classes is the caller's to judge
        ({"classes": 100}, "wrn_tiny", None),
        (
            {"name": "wrn_10_1"},
            "wrn_10_2",
            "layer1.0.conv1.weight is (16, 16, 3, 3), should be (32, 16, 3, 3)",
        ),
        ({"name": "resnet_tiny_d14_w4"}, "resnet_tiny_w4", "unexpected: layer1.1.conv1.weight"),
    ],
)
def test_depth_and_width_are_compared_and_channels_and_classes_are_told(
    tmp_path, small, built, named, expected
):
    path = tmp_path / "weights.pt"
    torch.save(small(**built).state_dict(), path)
    if expected is None:
        read = read_checkpoint(path, architecture=named)
        assert read.image_shape == built.get("shape", (3, 32, 32))
        assert read.num_classes == built.get("classes", 10)
    else:
        with pytest.raises(ValueError, match=re.escape(expected)):
            read_checkpoint(path, architecture=named)


def test_a_network_that_is_not_known(tmp_path, small):
    path, state = tmp_path / "weights.pt", small("resnet_tiny", (3, 32, 32)).state_dict()
    state["layer3.0.gate.weight"] = torch.zeros(32)
    del state["bn1.bias"]
    torch.save(state, path)
    refused(
        path,
        ValueError,
        f"{path} is of no architecture that repsim knows; the nearest is resnet_tiny (55 of its 56 entries "
        "are there).\n"
        "  missing: bn1.bias\n"
        "  unexpected: layer3.0.gate.weight\n"
        f"{NAME_IT}",
    )


def test_a_network_that_is_like_none(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"encoder.w": torch.zeros(3, 3), "decoder.w": torch.zeros(3)}, path)
    message = (
        f"{path} is of no architecture that repsim knows: its weights are called encoder.w, decoder.w, … "
        f"{NAME_IT}"
    )
    refused(path, ValueError, message)


def test_an_architecture_that_there_is_not(tmp_path, small):
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"^unknown model 'wrn_tyni'; did you mean 'wrn_tiny'"):
        read_checkpoint(tmp_path / "weights.pt", architecture="wrn_tyni")


@pytest.mark.parametrize("digits", ["00000000", None])
def test_a_hash_in_the_name(tmp_path, small, digits):
    path = tmp_path / "weights.pt"
    torch.save(small().state_dict(), path)
    checksum = read_checkpoint(path).checksum
    named = path.rename(tmp_path / f"resnet18-{digits or checksum[:8]}.pt")
    if digits is None:
        assert read_checkpoint(named).checksum == checksum
    else:
        message = (
            f"{named} is not the file that it should be: its SHA-256 is {checksum[:12]}…, by its name it "
            f"begins with {digits}. Remove it, and fetch it again."
        )
        refused(named, DamagedArtifact, message)


# code


class Local:
    """A class of the script that trained the network."""


class Attack:
    """Runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (eval, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_needs_code_is_refused_with_the_command_that_converts_it(tmp_path, small, zipped):
    path = tmp_path / "my weights.pt.best"
    content = {"model": small().state_dict(), "args": Local}
    torch.save(content, path, pickle_module=dill, _use_new_zipfile_serialization=zipped)
    refused(
        path,
        ValueError,
        f"{path} holds more than tensors and plain values ({Local.__module__}.Local), and loading it could "
        "run any code that its author put in. If you trust its author, convert it once:\n"
        f"    repsim convert '{path}' '{tmp_path}/my weights.safetensors' --trust-pickle",
    )
    assert read_checkpoint(path, trust_pickle=True).architecture == "wrn_tiny"


def test_code_is_not_run_unless_it_is_trusted(tmp_path, small):
    path, sign = tmp_path / "weights.pt", tmp_path / "sign"
    torch.save({"model": small().state_dict(), "args": Attack(sign)}, path)
    with pytest.raises(ValueError, match=r"holds more than tensors and plain values \(eval\)"):
        read_checkpoint(path)
    assert not sign.exists()
    read_checkpoint(path, trust_pickle=True)
    assert sign.exists()
