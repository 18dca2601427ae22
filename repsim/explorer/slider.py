"""One slider: the images that fool networks, at the ε that is dragged to (the quickstart)."""

from __future__ import annotations

import io
from collections.abc import Mapping

import ipywidgets as widgets
import matplotlib.pyplot as plt
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from repsim.attacks import attack
from repsim.figures import plots
from repsim.training import accuracy

STOPS = 16  # of the slider


def attacked_images(
    networks: Mapping[str, nn.Module],
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    epsilon: float,
) -> Figure:
    """Images, and below them what fools each network at most ε away; beside each row, how many it gets right.

    Parameters
    ----------
    networks
        What each is called → classifier of images in [0, 1].
    epsilon
        In pixel units (L∞, PGD).
    """
    rows = {"images": images}
    for name, network in networks.items():
        found = attack(network, images, labels, epsilon)
        right = round(accuracy(network, found, labels) * len(images))
        rows[f"{name}: {right} of {len(images)} right"] = found
    return plots.image_grid(rows)


def epsilon_slider(
    networks: Mapping[str, nn.Module],
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    epsilon: float = 0.1,
    largest: float = 0.3,
) -> widgets.VBox:
    """A slider of ε above the picture of `attacked_images`, which is drawn when it is let go.

    Parameters
    ----------
    epsilon, largest
        Where the slider stands, and how far it goes.
    """
    slider = widgets.FloatSlider(
        epsilon, min=0, max=largest, step=largest / (STOPS - 1), description="ε", continuous_update=False
    )
    picture = widgets.Image(format="png")

    def draw(_: object = None) -> None:
        figure = attacked_images(networks, images, labels, slider.value)
        with io.BytesIO() as file:
            figure.savefig(file, format="png", dpi=80)
            picture.value = file.getvalue()
        plt.close(figure)

    slider.observe(draw, "value")
    draw()
    return widgets.VBox([slider, picture])
