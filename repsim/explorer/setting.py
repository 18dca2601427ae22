"""The settings of an explorer's controls, and the results that are to be seen at one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from repsim.attacks import epsilon_text, make_attack
from repsim.measures import find_measure
from repsim.support import messages
from repsim.training import zoo

INPUTS = ("natural", "adversarial", "inverted")
ATTACKS = ("pgd", "fgsm")  # fast enough to follow a slider
ATTACK_NAMES = {  # text → attack and norm
    f"{name.upper()}, {text}": (name, norm)
    for name in ATTACKS
    for norm, text in (("linf", "L∞"), ("l2", "L2"))
}


def network_text(architecture: str, trained: float) -> str:
    """The text that tells a network from others of its data set and seed."""
    return f"{architecture}, {f'ε = {epsilon_text(trained)}' if trained else 'standard'}"


@dataclass(frozen=True)
class Setting:
    """The positions of all controls.

    Attributes
    ----------
    dataset
        As `load_data` takes it.
    architecture_a, trained_a, architecture_b, trained_b, seed
        Which networks: their architectures, the ε (L∞) they were trained at, and the seed of both.
    measure
        Of representations, by name: a similarity.
    layer_a, layer_b
        The pair that is looked at; empty: the last one.
    attack, norm, epsilon
        Of the adversarial images.
    inputs
        What both networks look at: `natural` images; `adversarial` ones, each network those that fool it;
        images `inverted` through the first.
    image
        Which of the images is shown.
    """

    dataset: str = "digits"
    architecture_a: str = zoo.MAIN
    trained_a: float = 0.0
    architecture_b: str = zoo.MAIN
    trained_b: float = 0.1
    seed: int = 0
    measure: str = "cka"
    layer_a: str = ""
    layer_b: str = ""
    attack: str = "pgd"
    norm: str = "linf"
    epsilon: float = 0.1
    inputs: str = "natural"
    image: int = 0

    def __post_init__(self):
        if self.inputs not in INPUTS:
            raise ValueError(messages.unknown("inputs", self.inputs, INPUTS))
        if find_measure(self.measure).orientation != "similarity":
            raise ValueError(f"similarities are shown, and {self.measure} is a distance.")
        if self.attack not in ATTACKS:
            raise ValueError(messages.unknown("attack", self.attack, ATTACKS))
        make_attack(self.attack, self.epsilon, self.norm)

    def but(self, **changes) -> Setting:
        """The same with other values."""
        return dataclasses.replace(self, **changes)


@dataclass
class Results:
    """The results to be seen at a setting; views that are not there yet are None.

    Attributes
    ----------
    layers
        Of each network, from the first to the last.
    pictures
        Name → image: as it is, as attacked, the change made visible, inverted through either.
    answers
        One row per network and class: `network`, `class`, `probability`, of the image that each looks at.
    true
        The class that the image shows.
    map
        Layers of the first network down, of the second across.
    curve
        One row per network and layer: `network`, `layer`, `depth`, `value`: natural against attacked images.
    neighbors
        Name of a network → the images nearest to this one at the chosen layer, nearest first.
    stitched
        One row per stored stitch at the chosen layers: `fitting_method`, `clean` and `robust` accuracy.
    notes
        What could not be shown, and why.
    """

    setting: Setting
    layers: tuple[list[str], list[str]]
    pictures: dict[str, Float[Tensor, "c h w"]] | None = None
    answers: pd.DataFrame | None = None
    true: str = ""
    map: pd.DataFrame | None = None
    curve: pd.DataFrame | None = None
    neighbors: dict[str, list[int]] | None = None
    stitched: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The similarity of the chosen pair of layers."""
        return float(self.map.loc[self.setting.layer_a, self.setting.layer_b])
