"""A copy of a network that is being trained gives what the network gives in evaluation mode."""

import pytest
import torch
from torch import nn

from repsim.activations.following import FollowingCopy
from repsim.models import build_model
from repsim.support.devices import evaluating

SHAPE = (3, 32, 32)


def network(name):
    return build_model(name, SHAPE, 10, (0.5,) * 3, (0.2,) * 3)


def train_a_little(model, images):
    """Other weights and other statistics than it was built with."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(len(images)) % 10).backward()
        optimizer.step()


def gradient(run, images):
    images = images.clone().requires_grad_()
    logits = run(images)
    (found,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    return logits.detach(), found


@pytest.mark.matrix("resnet_tiny", "wrn_tiny")
@pytest.mark.parametrize(
    "name", ["resnet_tiny", "wrn_tiny", "vgg_tiny", "vit_tiny", "mlp", "densenet121", "mobilenet_v3_small"]
)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=["last", ""])
def test_the_copy_follows_the_network(name, memory_format):
    generator = torch.Generator().manual_seed(0)
    model, images = network(name).double(), torch.rand(8, *SHAPE, generator=generator, dtype=torch.float64)
    copy = FollowingCopy(model, SHAPE)
    with evaluating(model):
        before = gradient(model, images)
    train_a_little(model.train(), images)
    torch.testing.assert_close(
        gradient(copy, images), before, rtol=1e-3, atol=1e-5
    )  # not asked to follow yet
    copy.follow(memory_format)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with evaluating(model):
        expected = gradient(model, images)
    assert (expected[0] - before[0]).abs().max() > 1e-2
    torch.testing.assert_close(gradient(copy, images), expected, rtol=1e-6, atol=1e-9)
    assert model.training
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


class Branching(nn.Module):
    """A network that asks for values on its way, which cannot be traced."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)) * (2 if x.sum() > 0 else 3)


def test_what_cannot_be_traced_has_no_such_copy():
    with pytest.raises(ValueError, match=r"^the network cannot be copied: torch\.fx cannot trace it"):
        FollowingCopy(Branching(), SHAPE)
