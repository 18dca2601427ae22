"""What is said of files that are no checkpoint, of no known network, or that would run code."""

import gzip
import pickle
import re
import tarfile
import warnings
import zipfile

import dill
import pytest
import torch
from safetensors.torch import save_file

from repsim.models.checkpoints import convert, read_checkpoint
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
            "(9 bytes) is in no format of PyTorch, NumPy or safetensors: save state_dict() by "
            "torch.save, or fetch the file again if it was downloaded.",
        ),
        (
            b"\x80\x02",
            DamagedArtifact,
            "(2 bytes) is in no format of PyTorch, NumPy or safetensors: save state_dict() by "
            "torch.save, or fetch the file again if it was downloaded.",
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
    refused(path, DamagedArtifact, f"{path} (20,000 bytes) ends too early: fetch it again, or save it again.")
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


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"epoch": 3, "loss": [0.1]}, "a mapping of 'epoch', 'loss'"),
        ({"model": {"a": 1.0}}, "a mapping of 'model'"),
        ({"state": torch.zeros(3), "norms": {"bias": torch.ones(2)}}, "a mapping of 'state', 'norms'"),
        ({}, "a mapping of nothing"),
        (torch.zeros(3), "a Tensor"),
        ([torch.zeros(3)], "a list"),
    ],
)
def test_a_file_without_weights(tmp_path, content, held):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    message = (
        f"{path} holds no weights of a network: it is {held}. Expected names → tensors, as "
        "torch.save(network.state_dict(), FILE) writes them."
    )
    refused(path, ValueError, message)


def test_an_optimizer_alone(tmp_path, small):
    path, network = tmp_path / "opt_5.pth", small()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), path)
    message = (
        f"{path} holds the state of an optimizer, without the weights of a network: give the file that was "
        "saved beside it for the network's state_dict()."
    )
    refused(path, ValueError, message)


# networks in other ways


class LeNet(torch.nn.Module):
    """Its layers alone, for TorchScript."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(1, 6, 5), torch.nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = (torch.nn.Linear(*n) for n in ((400, 120), (120, 84), (84, 10)))

    def forward(self, images):
        return self.conv1(images)


def test_torchscript(tmp_path):
    network, path = LeNet(), tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of TorchScript
        torch.jit.script(network).save(path)
    target = path.with_suffix(".safetensors")
    own = f"torch.save(torch.jit.load('{path}').state_dict(), '{path.with_suffix('')}_weights.pt')"
    message = (
        f"{path} is TorchScript, a network as a program. If you trust its author, convert it once:\n"
        f"    repsim convert {path} {target} --trust-pickle\n"
        f"or save its weights: {own}."
    )
    refused(path, ValueError, message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        convert(path, target, trust_pickle=True)
        exec(own, {"torch": torch})
    for written in (target, path.with_name("net_weights.pt")):
        read = read_checkpoint(written)
        assert read.architecture == "lenet"
        assert all(torch.equal(value, read.weights[key]) for key, value in network.state_dict().items())


def test_a_program_of_torch_export(tmp_path):
    path = tmp_path / "net.pt2"
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.rand(1, 3),))
    torch.export.save(program, path)
    own = f"torch.save(torch.export.load('{path}').state_dict, '{tmp_path}/net_weights.pt')"
    refused(path, ValueError, f"{path} is a program of torch.export. Save its weights instead: {own}.")
    exec(own, {"torch": torch})
    assert torch.load(tmp_path / "net_weights.pt").keys() == {"weight", "bias"}


def test_an_archive(tmp_path, small):
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "weights.pt", "weights.pt")
    with tarfile.open(tmp_path / "weights.pth.tar", "w") as archive:
        archive.add(tmp_path / "weights.pt", "weights.pt")
    (tmp_path / "weights.tar.gz").write_bytes(gzip.compress(b"weights"))
    for name in ("all.zip", "weights.tar.gz", "weights.pth.tar"):
        path = tmp_path / name
        message = f"{path} is an archive of files: unpack it, and give the checkpoint that is in it."
        refused(path, ValueError, message)


@pytest.mark.parametrize(
    ("name", "beginning", "library"),
    [("model.h5", b"\x89HDF\r\n", "Keras (HDF5)"), ("model.onnx", b"\x08\x08", "ONNX")],
)
def test_a_file_of_another_library(tmp_path, name, beginning, library):
    path = tmp_path / name
    path.write_bytes(beginning + bytes(600))
    message = (
        f"{path} is a file of {library}, which holds no network of PyTorch: load its weights into one, and "
        "save that one's state_dict() by torch.save."
    )
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


@pytest.mark.parametrize(
    ("digits", "said"), [("20240115", False), ("f37072fd", True), (None, False)], ids=["date", "other", "own"]
)
def test_digits_in_the_name_of_a_file_of_ones_own(tmp_path, small, digits, said):
    path = tmp_path / "weights.pt"
    torch.save(small().state_dict(), path)
    checksum = read_checkpoint(path).checksum
    read = read_checkpoint(path.rename(tmp_path / f"resnet18-{digits or checksum[:8]}.pt"))
    note = (
        f"Its name ends in {digits} as in a checksum, and its SHA-256 begins with {checksum[:8]}: it is not "
        "the file that was published under that name."
    )
    assert (note in read.notes) == said
    assert any("its name" in each.lower() for each in read.notes) == said


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


@pytest.mark.parametrize("arrays", [True, False], ids=["arrays", "tensors"])
def test_what_pickle_alone_wrote_is_converted_as_its_refusal_says(tmp_path, small, arrays):
    path, weights = tmp_path / "weights.pkl", small().state_dict()
    with path.open("wb") as file:
        pickle.dump({key: value.numpy() if arrays else value for key, value in weights.items()}, file)
    with pytest.raises(ValueError, match=r"\n    repsim convert .* --trust-pickle$"):
        read_checkpoint(path)
    convert(path, tmp_path / "weights.safetensors", trust_pickle=True)
    read = read_checkpoint(tmp_path / "weights.safetensors")
    assert all(torch.equal(read.weights[key], value) for key, value in weights.items() if key in read.weights)


def test_code_is_not_run_unless_it_is_trusted(tmp_path, small):
    path, sign = tmp_path / "weights.pt", tmp_path / "sign"
    torch.save({"model": small().state_dict(), "args": Attack(sign)}, path)
    with pytest.raises(ValueError, match=r"holds more than tensors and plain values \(eval\)"):
        read_checkpoint(path)
    assert not sign.exists()
    read_checkpoint(path, trust_pickle=True)
    assert sign.exists()
