"""Anyone's `nn.Module`: taken by every function as it is, or told the two lines that store it."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import repsim
from repsim.activations import trace
from repsim.attacks import Attack
from repsim.models.checkpoints import to_attacker_model
from repsim.studies.cka_maps import natural_vs_adversarial
from repsim.studies.comparison import compare_groups, compare_models
from repsim.studies.models import accuracy_table, transfer_table
from repsim.studies.probing import ProbeOptions, classify, probe_accuracy
from repsim.studies.stitching import StitchOptions
from repsim.training import load_model, predict, robust_accuracy


class Functional(nn.Module):
    """Calls functions, where others have modules."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        x = F.relu(self.two(F.relu(self.one(images))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Branching(Functional):
    """Decides by its values, which no graph of operations can."""

    def forward(self, images):
        x = F.relu(self.one(images))
        x = F.relu(self.two(x)) if x.sum() > 0 else self.two(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(params=[Functional, Branching])
def networks(request):
    torch.manual_seed(0)
    return request.param(), request.param()


def test_a_network_is_taken_as_it_is(networks, tiny_data):
    network, other = networks
    images, labels = tiny_data.test.images[:20], tiny_data.test.labels[:20]
    assert repsim.layers(network, (1, 16, 16))["layer"].iloc[0] == "one"
    values = [repsim.capture(each, images, ["two"])["two"] for each in networks]
    assert values[0].shape == (20, 4, 16, 16)
    assert len(repsim.compare(*values, "cka")) == 1
    assert set(repsim.layer_cka(network, other, images)["layer_a"]) >= {"one", "two"}
    assert (repsim.attack(network, images, labels, epsilon=0.1) - images).abs().max() <= 0.1 + 1e-6
    assert 0 <= robust_accuracy(network, tiny_data.test, [Attack(0.1, steps=2)])["accuracy"].item() <= 1
    inverted = repsim.invert(network.eval(), images[:2], images[2:4], iterations=2, progress=False)
    assert inverted.images.shape == (2, 1, 16, 16)
    options = StitchOptions(epochs=1)
    ends = [trace(each, (1, 16, 16)) for each in networks]
    for pair in (ends, networks):
        stitched, _ = repsim.stitch(*pair, "one", "one", images, labels, options, progress=False)
        assert predict(stitched, images).shape == (20, 10)
    assert torch.equal(to_attacker_model(network)(images, make_adv=False)[0], network(images))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "call",
    [
        lambda models, data: compare_models(models, data, "cka"),
        lambda models, data: compare_groups(models, data, "cka", "correctness"),
        lambda models, data: classify(models, data, [ProbeOptions("ridge")]),
        lambda models, data: probe_accuracy(models, data, ProbeOptions("ridge")),
        lambda models, data: accuracy_table(models, data, [Attack(0.1)]),
        lambda models, data: transfer_table(models, data.test, Attack(0.1)),
        lambda models, data: natural_vs_adversarial(models, data.test, Attack(0.1)),
    ],
    ids=["models", "groups", "classify", "probes", "accuracy", "transfer", "cka"],
)
def test_what_is_kept_by_weights_says_how_to_store_them(call, tiny_data):
    with pytest.raises(
        ValueError, match=r"(?s)have to be stored ones, not Functional itself\. Two lines make one"
    ):
        call([Functional(), Functional()], tiny_data)


@pytest.mark.usefixtures("unchecked")
def test_the_two_lines_store_it(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = Functional().eval()
    with pytest.raises(ValueError, match="Two lines") as error:
        compare_models([network], tiny_data)
    lines = re.search(r"\n    (torch\.save.*)\n    model = (.*)$", str(error.value))
    exec(lines[1], {"torch": torch, "network": network})
    model = eval(lines[2], {"repsim": repsim, "data": tiny_data})
    assert isinstance(load_model(model.name, "cpu").network, Functional)
    assert torch.equal(predict(model.network, tiny_data.test.images), predict(network, tiny_data.test.images))
