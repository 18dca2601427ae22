"""The quickstart's slider: a picture of what fools networks, drawn anew where the slider goes."""

import pytest
import torch

from repsim.explorer import attacked_images, epsilon_slider
from repsim.models import build_model


@pytest.fixture
def shown(tiny_data):
    """A network that no one trained, and what it is shown."""
    network = build_model("mlp", (1, 16, 16), 10, [0.5], [0.25]).eval()
    return {"mine": network}, tiny_data.test.images[:4], tiny_data.test.labels[:4]


def test_each_network_has_a_row_that_says_how_many_it_gets_right(shown):
    networks, images, labels = shown
    right = int((networks["mine"](images).argmax(1) == labels).sum())
    names = [axis.get_ylabel() for axis in attacked_images(*shown, 0.0).axes if axis.get_ylabel()]
    assert names == ["images", f"mine: {right} of 4 right"]


def test_the_picture_follows_the_slider(shown):
    slider, picture = epsilon_slider(*shown, epsilon=0.1, largest=0.3).children
    assert slider.value == pytest.approx(0.1)
    before = bytes(picture.value)
    assert before.startswith(b"\x89PNG")
    slider.value = 0.3
    assert bytes(picture.value) != before
    slider.value = 0.1
    assert bytes(picture.value) == before
    assert all(parameter.grad is None for parameter in shown[0]["mine"].parameters())
    assert torch.is_grad_enabled()
