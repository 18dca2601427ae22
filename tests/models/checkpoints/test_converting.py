"""`repsim convert` writes tensors only, and what was known of them is read back."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import dill
import pytest
import torch
from safetensors import safe_open
from torch import nn
from toy_networks import randomized

from repsim.cli.main import main
from repsim.models.checkpoints import convert, read_checkpoint
from repsim.support.artifacts import checksum
from repsim.support.compat import torchvision


class Local:
    """A class of the script that trained the network."""


@pytest.fixture
def written(tmp_path, small):
    content = {
        "model": small().state_dict(),
        "epoch": 4,
        "acc": 0.9,
        "args": {"eps": "8/255", "norm": "linf"},
    }
    torch.save({**content, "kind": Local}, tmp_path / "weights.pt.best", pickle_module=dill)
    return tmp_path / "weights.pt.best"


def test_what_was_known_is_read_back(written, tmp_path, capsys, rebuilt, pixels):
    target = tmp_path / "weights.safetensors"
    with pytest.raises(ValueError, match=r"holds more than tensors"):
        read_checkpoint(written)
    assert main(["convert", str(written), str(target), "--trust-pickle"]) == 0
    said = capsys.readouterr().out
    assert f"{written}: checkpoint with its weights as 'model', wrn_tiny, 10 classes" in said
    assert "Its architecture is wrn_tiny" in said
    assert said.endswith(f"written to {target}\n")
    before, after = read_checkpoint(written, trust_pickle=True), read_checkpoint(target)
    assert (after.epsilon, after.norm, after.accuracy, after.epoch) == (8 / 255, "linf", 0.9, 4)
    assert after.format == "checkpoint with its weights as 'model', converted by repsim"
    assert after.checksum == checksum(target) != before.checksum
    assert all(torch.equal(value, after.weights[key]) for key, value in before.weights.items())
    unset = {"weights": {}, "source": "", "format": "", "checksum": ""}
    assert replace(after, **unset) == replace(before, **unset)
    with safe_open(target, "pt") as file:
        assert checksum(written) in file.metadata()["checkpoint"]
    with torch.no_grad():
        assert torch.equal(rebuilt(after)(pixels()), rebuilt(before)(pixels()))


def test_without_trust_only_tensors_are_converted(written, tmp_path, capsys, small):
    target = tmp_path / "weights.safetensors"
    assert main(["convert", str(written), str(target)]) == 2
    assert "loading it could run any code that its author put in" in capsys.readouterr().err
    assert not target.exists()
    torch.save(small().state_dict(), tmp_path / "plain.pt")
    assert main(["convert", str(tmp_path / "plain.pt"), str(target)]) == 0
    assert read_checkpoint(target).architecture == "wrn_tiny"


def test_the_target_is_named_for_what_it_is(written, tmp_path):
    with pytest.raises(
        ValueError, match=r"^what is written is a safetensors file: name it out\.safetensors, not out"
    ):
        convert(written, tmp_path / "out.pt", trust_pickle=True)
    assert not (tmp_path / "out.pt").exists()


def test_the_architecture_can_be_told(tmp_path, small, bare):
    source, target = tmp_path / "weights.pt", tmp_path / "weights.safetensors"
    torch.save(bare(small("squeezenet1_1", (3, 224, 224), 3)), source)
    named = "robustness:imagenet/squeezenet1_1"
    assert main(["convert", str(source), str(target), "--architecture", named]) == 0
    assert read_checkpoint(target).architecture == named


@pytest.mark.slow
def test_classes_that_are_not_installed_are_left_out(tmp_path):
    """A whole network, pickled by a script whose module is not here."""
    (tmp_path / "theirs.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn

            class Settings:
                def __init__(self):
                    self.eps, self.constraint = 0.5, "2"

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
                    self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
                    self.register_buffer("grid", torch.zeros(3), persistent=False)

            if __name__ == "__main__":
                import theirs
                torch.save({"net": theirs.Net(), "args": theirs.Settings()}, "whole.pt")
            """
        )
    )
    subprocess.run([sys.executable, "theirs.py"], cwd=tmp_path, check=True)
    with pytest.raises(ValueError, match=r"holds more than tensors and plain values \(theirs\.Net\)"):
        read_checkpoint(tmp_path / "whole.pt")
    read = read_checkpoint(tmp_path / "whole.pt", trust_pickle=True)
    assert (read.architecture, read.image_shape) == ("lenet", (1, 32, 32))
    assert (read.epsilon, read.norm) == (0.5, "l2")


@pytest.mark.parametrize("wrapped", [False, True])
def test_layers_of_a_whole_network_say_what_its_weights_leave_open(tmp_path, small, rebuilt, pixels, wrapped):
    network = small("resnet20_w1+silu")
    whole = nn.DataParallel(network) if wrapped else network
    torch.save({"net": whole, "acc": 91.0}, tmp_path / "whole.pt")
    convert(tmp_path / "whole.pt", tmp_path / "whole.safetensors", trust_pickle=True)
    torch.save({"net": whole.state_dict(), "acc": 91.0}, tmp_path / "weights.pt")
    assert "resnet20_w1+silu" in read_checkpoint(tmp_path / "weights.pt").alternatives
    for read in (
        read_checkpoint(tmp_path / "whole.pt", trust_pickle=True),
        read_checkpoint(tmp_path / "whole.safetensors"),
    ):
        assert (read.architecture, read.settled_by) == ("resnet20_w1+silu", "file")
        assert (read.alternatives, read.accuracy) == ((), 0.91)
        with torch.no_grad():
            torch.testing.assert_close(rebuilt(read)(pixels()), network(pixels()))


def test_layers_that_the_field_does_not_have_are_looked_for(tmp_path, rebuilt, pixels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = randomized(torchvision.models.resnet18(num_classes=5))
    for module in network.modules():
        if hasattr(module, "relu"):
            module.relu = nn.GELU()
    torch.save(network, tmp_path / "whole.pt")
    read = read_checkpoint(tmp_path / "whole.pt", trust_pickle=True)
    assert (read.architecture, read.settled_by) == ("torchvision:resnet18+gelu", "file")
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), network(pixels()))


def test_what_is_left_open_stays_open(tmp_path, small):
    torch.save(small("wrn_10_1").state_dict(), tmp_path / "weights.pt")
    convert(tmp_path / "weights.pt", tmp_path / "weights.safetensors")
    before, after = (read_checkpoint(tmp_path / f"weights.{end}") for end in ("pt", "safetensors"))
    assert after.alternatives == before.alternatives != ()
    assert (before.settled_by, after.settled_by) == ("", "")
    named = read_checkpoint(tmp_path / "weights.safetensors", architecture="wrn_10_1")
    assert (named.alternatives, named.settled_by) == ((), "name")


@pytest.mark.parametrize("kind", [nn.Dropout, nn.ReLU])
def test_what_stands_before_the_last_layer_of_a_whole_network_is_looked_at(tmp_path, small, kind):
    network = small("resnet_tiny")
    network.fc = nn.Sequential(kind(), network.fc)
    torch.save(network, tmp_path / "whole.pt")
    if kind is nn.Dropout:
        assert read_checkpoint(tmp_path / "whole.pt", trust_pickle=True).architecture == "resnet_tiny"
    else:
        with pytest.raises(ValueError, match=r"fc\.1\.weight"):
            read_checkpoint(tmp_path / "whole.pt", trust_pickle=True)


class Learner:
    """As that of fastai, which holds a network among much else."""

    def __init__(self, network):
        self.model, self.recorder = network, [0.1]


def test_a_network_held_by_an_object(tmp_path, small):
    torch.save(Learner(small("resnet_tiny")), tmp_path / "learner.pkl", pickle_module=dill)
    read = read_checkpoint(tmp_path / "learner.pkl", trust_pickle=True)
    assert (read.architecture, read.format) == (
        "resnet_tiny",
        "checkpoint with its weights as 'model', a whole network",
    )
