"""Classes of the user's own as architectures: found, called with literals only, followed when they change."""

import json
import re
import sys

import pytest
import torch
from torch import nn

from repsim.models import build_model, is_architecture
from repsim.models.checkpoints import read_checkpoint
from repsim.models.checkpoints.contents import KIND
from repsim.models.own import check_definition, definition_of, find_own, text_of
from repsim.support import artifacts

SOURCE = """
import subprocess
from subprocess import run
import torch
import torch.nn.functional as F
from torch import nn
from own_parts.blocks import made

class Net(nn.Module):
    def __init__(self, width=8, num_classes=3, scales=(1.0,)):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, width, 3), nn.Linear(width, num_classes)
        self.scale = float(torch.ones(1).sum()) * scales[0]  # looks at numbers, as an outline has none

    def forward(self, images):
        return self.head(F.relu(self.conv(images)).mean((2, 3)) * self.scale)

class Stack(nn.Sequential):
    def __init__(self, n_classes):
        super().__init__(nn.Flatten(), nn.Linear(256, n_classes))

class Through(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Flatten(), nn.Linear(256, 10)

    def forward(self, images):
        for layer in self.children():
            images = layer(images)
        return images

class Normalized(Net):
    def normalize(self, images):
        return images - 0.5

class NoNetwork:
    pass

def build(depth=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 7))

def listed():
    return [nn.Linear(1, 1)]

def fails():
    raise KeyError("inside")
"""

PART = """
from torch import nn

def made(classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, classes))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with a module and a package of networks."""
    (tmp_path / "own_nets.py").write_text(SOURCE)
    (tmp_path / "own_broken.py").write_text("import not_there_at_all\n")
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "__init__.py").write_text("")
    (tmp_path / "own_parts" / "blocks.py").write_text(PART)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def built(text, classes=5):
    return build_model(text, (1, 16, 16), classes, [0.5], [0.25])


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("own_nets:Net", 5),
        ("own_nets:Net(width=4)", 5),
        ("own_nets:Net(4, 6, scales=[2.0])", 6),
        ("own_nets:Stack", 5),
        ("own_nets:build", 7),  # it does not ask for them
        ("own_nets:build(depth=2)", 7),
        ("own_parts.blocks:made", 5),
        ("torch.nn:Sequential", None),
    ],
)
def test_classes_and_builders_are_architectures(text, classes):
    path = list(sys.path)
    assert not is_architecture(text)  # a file's word for it has nothing imported
    network = built(text)
    if classes:
        assert network(torch.rand(2, 1, 16, 16)).shape == (2, classes)
    assert sys.path == path


@pytest.mark.parametrize(
    ("text", "argument"), [("own_nets:Net", "num_classes"), ("own_nets:Stack", "n_classes")]
)
def test_they_keep_their_names_and_are_normalised_in_front(text, argument):
    images, network = torch.rand(2, 1, 16, 16), built(text)
    kind = getattr(sys.modules["own_nets"], text.partition(":")[2])
    plain = kind(**{argument: 5})
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if k[:10] != "normalize."})
    assert torch.allclose(network(images), plain((images - 0.5) / 0.25), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_net:Net", "unknown module 'own_net'; did you mean 'own_nets'"),
        ("own_parts.block:made", "unknown module 'own_parts.block'"),
        ("own_broken:Net", "own_broken needs not_there_at_all, which is not there"),
        ("own_nets:Nett", "'Nett'; did you mean 'Net'"),
        ("own_nets:NoNetwork", "NoNetwork is no subclass of torch.nn.Module"),
        ("own_nets:made", "made is a function of own_parts.blocks: write own_parts.blocks:made."),
        (
            "own_nets:Net(depth=3)",
            "got an unexpected keyword argument 'depth'. It takes Net(width=8, num_classes=3",
        ),
        ("own_nets:Net(width=abs)", "must be plain values"),
        ("own_nets:Net(**{})", "must be plain values"),
        ("own_nets:Net(width='wide')", "could not be made: TypeError"),
        ("own_nets:listed", "gives list, not a torch.nn.Module"),
        ("own_nets:fails", "could not be made: KeyError"),
        ("own_nets:Normalized", "has a `normalize` of its own"),
        ("own_nets:Through", "goes through all of its own layers"),
    ],
)
def test_what_cannot_be_made_is_told(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        built(text)


@pytest.mark.parametrize(
    "text",
    [
        "subprocess:run(['touch', 'made_by_a_name'])",
        "os.path:exists('.')",
        "own_nets:run(['touch', 'made_by_a_name'])",
        "own_nets:subprocess",
        "pathlib:Path('made_by_a_name').touch()",
        "torch.hub:load('.', 'made_by_a_name')",
        "torch:save([], 'made_by_a_name')",
        "builtins:eval('1')",
    ],
)
def test_a_name_is_no_way_to_call_anything_else(text, folder):
    with pytest.raises(ValueError, match=r"^(?!.*could not be made)"):
        built(text)
    assert not (folder / "made_by_a_name").exists()


def test_weights_are_drawn_by_the_seed_whatever_the_module_does(folder):
    (folder / "own_seeds.py").write_text(f"{SOURCE}\ntorch.manual_seed(1234)\n")
    first, second = (built("own_seeds:Net").state_dict() for _ in range(2))  # imported once
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(
        first["head.weight"], build_model("own_seeds:Net", (1, 16, 16), 5, [0.5], [0.25], 1).head.weight
    )


def test_reading_a_file_imports_nothing_that_it_names(folder):
    (folder / "own_trap.py").write_text(f"{SOURCE}\nopen('imported', 'w').close()\n")
    facts = ["epsilon", "norm", "accuracy", "epoch"]
    said = {**dict.fromkeys(facts), "architecture": "own_trap:Net", "image_shape": [1, 16, 16], "notes": []}
    said |= {"converted_from": "state dict", "alternatives": [], "settled_by": ""}
    weights = {k: v for k, v in built("own_nets:Net").state_dict().items() if k[:10] != "normalize."}
    header = {"format": KIND, "checkpoint": json.dumps(said)}
    artifacts.write_tensors(folder / "a.safetensors", weights, header)
    with pytest.raises(ValueError, match='If it is yours, say so: architecture="own_trap:Net"'):
        read_checkpoint(folder / "a.safetensors")
    torch.save({"state_dict": weights, "arch": "own_trap:Net", "args": {"model": "own_trap:Net"}}, "b.pt")
    with pytest.raises(ValueError, match="is of no architecture"):
        read_checkpoint("b.pt")
    assert not (folder / "imported").exists()
    assert read_checkpoint("a.safetensors", architecture="own_trap:Net").architecture == "own_trap:Net"
    assert (folder / "imported").exists()


def test_other_names_are_no_classes():
    for name in ("timm:resnet18", "hf:owner", "wrn_28_10", "robustness:cifar/resnet18", "a:b:c", "folder:x"):
        assert find_own(name) is None


def test_a_changed_or_missing_definition_is_told(folder, monkeypatch):
    definition = definition_of("own_nets:Net(width=4)+silu")["definition"]
    assert definition["file"] == str(folder / "own_nets.py")
    check_definition("own_nets:Net", definition, "net-1")
    (folder / "own_nets.py").write_text(SOURCE + "\n")
    with pytest.warns(UserWarning, match="which defines own_nets:Net, is not what it was when net-1"):
        check_definition("own_nets:Net", definition, "net-1")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    del sys.modules["own_nets"]
    with pytest.raises(
        ValueError,
        match=rf"run from {re.escape(str(folder))}, or with PYTHONPATH={re.escape(str(folder))}\.$",
    ):
        check_definition("own_nets:Net", definition, "net-1")
    assert definition_of("resnet_tiny") == {}
    check_definition("resnet_tiny", {}, "net-2")


def test_a_networks_class_has_a_text():
    assert text_of(nn.Linear(1, 1)) == "torch.nn.modules.linear:Linear(…)"
    assert text_of(nn.Flatten()) == "torch.nn.modules.flatten:Flatten"

    class Inside(nn.Module):
        pass

    assert text_of(Inside()) == "mymodule:Inside"
