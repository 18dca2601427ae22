"""Networks that others publish, by name, from files that the tests put where their packages keep them.

torchvision, timm and huggingface_hub are the real ones; RobustBench, which pins an older timm, is a stand-in
with its functions' signatures.
"""

import dataclasses
import hashlib
import json
import re
import sys
from collections import OrderedDict
from enum import Enum
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models._api import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification
from toy_networks import randomized

from repsim.models import build_model, is_architecture
from repsim.models.checkpoints import read_checkpoint
from repsim.support.artifacts import DamagedArtifact, checksum
from repsim.support.compat import torchvision


def by_hand(read, network, images):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (read.mean, read.std))
    return network((images - mean) / std)


# torchvision


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small network, published as torchvision publishes its own, and downloaded already."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomized(torchvision.models.squeezenet1_1())
    file = tmp_path / "checkpoints" / "new.pth"
    file.parent.mkdir()
    torch.save(network.state_dict(), file)
    file = file.rename(file.with_name(f"squeezenet1_1-{checksum(file)[:8]}.pth"))

    class Published(WeightsEnum):
        IMAGENET1K_V1 = Weights(
            url=f"https://example.org/{file.name}",
            transforms=lambda: ImageClassification(crop_size=96),
            meta={"_metrics": {"ImageNet-1K": {"acc@1": 58.178}}, "num_params": 1, "categories": None},
        )
        DEFAULT = IMAGENET1K_V1

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: Published)
    return network, file


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "torchvision:squeezenet1_1@IMAGENET1K_V1"])
def test_torchvision(published, name, rebuilt, pixels):
    network, file = published
    read = read_checkpoint(name)
    assert (read.source, read.format) == (name, "torchvision weights")
    assert (read.architecture, read.num_classes) == ("torchvision:squeezenet1_1", 1000)
    assert (read.image_shape, read.checksum) == ((3, 96, 96), checksum(file))
    assert (read.epsilon, read.accuracy) == (0.0, pytest.approx(0.58178))
    images = pixels((3, 64, 64), 2)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(images), by_hand(read, network, images))
    assert read_checkpoint(name, image_shape=(3, 64, 64)).image_shape == (3, 64, 64)


def test_a_damaged_download_of_torchvision(published):
    _, file = published
    torch.save(torchvision.models.squeezenet1_1().state_dict(), file)
    message = (
        f"{file} is not the file that it should be: its SHA-256 is {checksum(file)[:12]}…, by its name it "
        f"begins with {file.stem[-8:]}. Remove it, and fetch it again."
    )
    with pytest.raises(DamagedArtifact, match=f"^{re.escape(message)}$"):
        read_checkpoint("torchvision:squeezenet1_1")


def test_wrong_names_of_torchvision(published):
    with pytest.raises(
        ValueError, match=r"^unknown model 'torchvision:sqeezenet1_1'; did you mean 'torchvision:sq"
    ):
        read_checkpoint("torchvision:sqeezenet1_1")
    with pytest.raises(
        ValueError, match=r"^unknown weights of squeezenet1_1 'IMAGENET1K_V2'; did you mean 'IMAGENET1K_V1"
    ):
        read_checkpoint("torchvision:squeezenet1_1@IMAGENET1K_V2")
    with pytest.raises(
        ValueError, match=r"^torchvision:squeezenet1_1 names its architecture: leave architecture out\.$"
    ):
        read_checkpoint("torchvision:squeezenet1_1", architecture="resnet18")


# timm


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k"])
def test_timm(tmp_path, monkeypatch, rebuilt, pixels, name):
    timm = pytest.importorskip("timm")
    from timm.models import _registry

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomized(timm.create_model(name, pretrained=False))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    kept = dataclasses.replace(
        _registry._model_pretrained_cfgs[name], file=str(tmp_path / "model.safetensors")
    )
    monkeypatch.setitem(_registry._model_pretrained_cfgs, name, kept)
    read = read_checkpoint(f"timm:{name}")
    assert (read.format, read.architecture, read.num_classes) == ("timm weights", f"timm:{name}", 1000)
    assert read.image_shape == (3, 160, 160)
    assert (read.mean, read.std) == (tuple(kept.mean), tuple(kept.std))
    assert is_architecture(read.architecture)
    images = pixels((3, 160, 160), 2)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(images), by_hand(read, network, images))
    assert read_checkpoint(f"timm:{name}").checksum == read.checksum


@pytest.mark.matrix
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_networks_of_timm_take_the_images_that_they_are_built_for(name, shape, pixels):
    pytest.importorskip("timm")
    network = build_model(name, shape, 7, [0.5] * shape[0], [0.2] * shape[0]).eval()
    assert network(pixels(shape)).shape == (3, 7)


def test_wrong_names_of_timm():
    pytest.importorskip("timm")
    for call in (read_checkpoint, lambda name: build_model(name, (3, 32, 32), 10, [0.5] * 3, [0.2] * 3)):
        with pytest.raises(ValueError, match=r"^unknown model of timm 'resnet1888'; did you mean 'resnet18'"):
            call("timm:resnet1888")


@pytest.mark.parametrize(
    ("package", "name", "message"),
    [
        ("timm", "timm:resnet18", "models of timm need the package timm: pip install 'robust-repsim[timm]'"),
        (
            "huggingface_hub",
            "hf:a/b/c.pt",
            "files of the Hugging Face hub need the package huggingface_hub: pip install "
            "'robust-repsim[hub]'",
        ),
        (
            "robustbench",
            "robustbench:Standard",
            "models of RobustBench need the package robustbench: pip install 'robust-repsim[robustbench]'",
        ),
    ],
)
def test_a_missing_package_is_named(monkeypatch, package, name, message):
    for module in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        read_checkpoint(name)


class Missing:
    """Finds a package missing, whether it is installed or not."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self.package)


# the hub

COMMIT = "1" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder in which huggingface_hub keeps files, and nothing but it."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def keep(content, file, hashed="sha256"):
        folder = tmp_path / "models--madrylab--robust-imagenet-models"
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        name = hashlib.sha256(content).hexdigest() if hashed == "sha256" else git
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "blobs" / name).write_bytes(content)
        link = folder / "snapshots" / COMMIT / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder / "blobs" / name)
        return folder / "blobs" / name

    return keep


NAME = "hf:madrylab/robust-imagenet-models/resnet18_l2_eps3.ckpt"


@pytest.mark.matrix("sha256")
@pytest.mark.parametrize("hashed", ["sha256", "git"])
@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_the_hub(hub, small, tmp_path, hashed, revision):
    torch.save({"state_dict": small().state_dict()}, tmp_path / "weights")
    kept = hub((tmp_path / "weights").read_bytes(), "resnet18_l2_eps3.ckpt", hashed)
    read = read_checkpoint(NAME + revision)
    assert (read.source, read.checksum) == (NAME + revision, checksum(kept))
    assert (read.architecture, read.epsilon, read.norm) == ("wrn_tiny", 3, "l2")
    assert (
        f"From the hub's madrylab/robust-imagenet-models at {COMMIT[:12]}, its checksum compared."
        in read.notes
    )
    assert "ε = 3 and l2 are from its name." in read.notes


def test_a_file_in_a_folder_of_the_hub(hub, small, tmp_path):
    torch.save(small().state_dict(), tmp_path / "weights")
    hub((tmp_path / "weights").read_bytes(), "linf/cifar_linf_8.pt")
    read = read_checkpoint("hf:madrylab/robust-imagenet-models/linf/cifar_linf_8.pt")
    assert (read.epsilon, read.norm) == (8 / 255, "linf")


def test_what_stands_beside_a_file_of_the_hub(hub, small, bare, tmp_path):
    """The index of its parts, the parts, and timm's config.json."""
    weights = bare(small())
    keys = list(weights)
    for number, half in enumerate((keys[:9], keys[9:])):
        save_file({key: weights[key] for key in half}, tmp_path / "part")
        hub((tmp_path / "part").read_bytes(), f"wrn/part-{number}.safetensors")
    placed = {key: f"part-{int(index >= 9)}.safetensors" for index, key in enumerate(keys)}
    hub(json.dumps({"weight_map": placed}).encode(), "wrn/model.safetensors.index.json", "git")
    name = "hf:madrylab/robust-imagenet-models/wrn/model.safetensors.index.json"
    alone = read_checkpoint(name)
    assert alone.mean is None
    unknown = "Whether config.json stands beside it is not known, as the hub cannot be reached."
    assert unknown in alone.notes
    config = {"architecture": "wrn", "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}}
    hub(json.dumps(config).encode(), "wrn/config.json", "git")
    read = read_checkpoint(name)
    assert (read.architecture, read.mean) == ("wrn_tiny", (0.4, 0.5, 0.6))
    assert unknown not in read.notes


@pytest.mark.parametrize(("hashed", "kind"), [("sha256", "SHA-256"), ("git", "hash")])
def test_a_damaged_file_of_the_hub(hub, small, tmp_path, hashed, kind):
    torch.save(small().state_dict(), tmp_path / "weights")
    kept = hub((tmp_path / "weights").read_bytes(), "resnet18_l2_eps3.ckpt", hashed)
    kept.write_bytes(kept.read_bytes() + b"\0")
    begins = rf"by the hub it begins with {kept.name[:12]}\."
    message = rf"is not the file that it should be: its {kind} is \w{{12}}…, {begins}"
    with pytest.raises(DamagedArtifact, match=message):
        read_checkpoint(NAME)


def test_a_file_of_the_hub_that_cannot_be_fetched(hub):
    with pytest.raises(
        RuntimeError, match=f"^{re.escape(NAME)} is not kept here, and the hub cannot be reached\\.$"
    ):
        read_checkpoint(NAME)


@pytest.mark.parametrize("name", ["hf:resnet18.ckpt", "hf:madrylab/robust-imagenet-models", "hf:a/b/c@"])
def test_wrong_names_of_the_hub(name):
    message = f"a file of the hub is written hf:OWNER/REPOSITORY/FILE (@REVISION behind), not {name!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_checkpoint(name)


# RobustBench


class BenchmarkDataset(Enum):
    cifar_10 = "cifar10"
    imagenet = "imagenet"


class ThreatModel(Enum):
    Linf = "Linf"
    L2 = "L2"
    corruptions = "corruptions"


class Normalizer(nn.Module):
    """As RobustBench puts it before networks for ImageNet, under the name that ours has."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / 0.5


def behind_a_normalizer():
    return nn.Sequential(OrderedDict(normalize=Normalizer(), model=Normalizing()))


class Normalizing(nn.Module):
    """As RobustBench's: it normalises inside, by buffers of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x - self.mu)).mean((2, 3)))


@pytest.fixture
def robustbench(monkeypatch):
    """The parts of robustbench 1.1.1 that are called, by its names and signatures; remembers its calls."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = {True: randomized(behind_a_normalizer()), False: randomized(Normalizing())}
    calls = []

    def load_model(
        model_name,
        model_dir="./models",
        dataset="cifar10",
        threat_model="Linf",
        custom_checkpoint="",
        norm=None,
    ):
        file = model_dir / dataset / threat_model / f"{model_name}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        network = trained[dataset == "imagenet"]
        torch.save(network.state_dict(), file)
        calls.append(file)
        return network

    entry = {"model": Normalizing, "gdrive_id": "none"}
    model_dicts = {
        BenchmarkDataset.cifar_10: {
            ThreatModel.Linf: {"Standard": entry, "Sehwag2021Proxy_R18": entry},
            ThreatModel.L2: {"Sehwag2021Proxy_R18": entry, "Ding2020MMA": entry},
            ThreatModel.corruptions: {"Hendrycks2020AugMix_WRN": entry},
        },
        BenchmarkDataset.imagenet: {
            ThreatModel.Linf: {"Salman2020Do_R18": {**entry, "model": behind_a_normalizer}}
        },
    }
    modules = {
        "robustbench": {},
        "robustbench.utils": {"load_model": load_model},
        "robustbench.model_zoo": {},
        "robustbench.model_zoo.models": {"model_dicts": model_dicts},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(trained=trained, calls=calls)


@pytest.mark.matrix("Ding2020MMA", "Standard", "Hendrycks2020AugMix_WRN")
@pytest.mark.parametrize(
    ("name", "entry", "norm", "epsilon"),
    [
        ("Sehwag2021Proxy_R18", "cifar10/Linf/Sehwag2021Proxy_R18", "linf", 8 / 255),
        ("cifar10/L2/Sehwag2021Proxy_R18", "cifar10/L2/Sehwag2021Proxy_R18", "l2", 0.5),
        ("Ding2020MMA", "cifar10/L2/Ding2020MMA", "l2", 0.5),
        ("Standard", "cifar10/Linf/Standard", "linf", 0.0),
        ("Hendrycks2020AugMix_WRN", "cifar10/corruptions/Hendrycks2020AugMix_WRN", None, None),
        ("Salman2020Do_R18", "imagenet/Linf/Salman2020Do_R18", "linf", 4 / 255),
    ],
)
def test_robustbench(robustbench, tmp_path, rebuilt, pixels, name, entry, norm, epsilon):
    read = read_checkpoint(f"robustbench:{name}")
    (file,) = robustbench.calls
    assert file == tmp_path / "data" / "downloads" / "robustbench" / f"{entry}.pt"
    assert (read.format, read.architecture) == ("RobustBench model", f"robustbench:{entry}")
    assert (read.norm, read.epsilon, read.checksum) == (norm, epsilon, checksum(file))
    imagenet = entry.startswith("imagenet")
    assert (read.num_classes, read.image_shape) == ((1000, (3, 224, 224)) if imagenet else (10, (3, 32, 32)))
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), robustbench.trained[imagenet](pixels()))


def test_wrong_names_of_robustbench(robustbench):
    with pytest.raises(
        ValueError, match=r"^unknown model of RobustBench 'Sehwag2021Proxy_R8'; did you mean 'Sehwag2021P"
    ):
        read_checkpoint("robustbench:Sehwag2021Proxy_R8")
