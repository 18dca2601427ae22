"""All that decides what a trained network is, and what it is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from repsim.attacks import Attack, Norm
from repsim.data import Dataset
from repsim.store import StoredRecipe
from repsim.support.devices import Precision
from repsim.support.options import Count, Length, NotNegative, Share, options, read_options

Method = Literal["standard", "pgd", "trades", "imported"]
TrainingAttack = Literal["pgd", "fgsm", "free"]
STEP_SIZES = {"fgsm": 1.25, "free": 1.0}  # in ε, as their authors have them
LATER = ("precision", "training_attack", "held_out")  # fields of which stored recipes say nothing
IDENTITY = (
    "dataset",
    "architecture",
    "fingerprint",
    "method",
    "norm",
    "epsilon",
    "seed",
    "data_seed",
    "origin",
)


@dataclass(frozen=True)
class Images:
    """The images that networks are trained on, without the images themselves: all that a recipe says of them.

    A `Dataset` has these attributes, too.
    """

    name: str
    fingerprint: str

    @property
    def slug(self) -> str:
        return self.name


@options("training option")
class Recipe(StoredRecipe):
    """All that decides what a trained network is; equal recipes make equal networks.

    Attributes
    ----------
    dataset, fingerprint
        Which images; `Recipe.on` fills the fingerprint in.
    method
        `standard`; `pgd`, adversarial training (Madry et al., 2018); `trades` (Zhang et al., 2019); or
        `imported`: trained elsewhere, so that of the fields below only norm, ε and seed are known.
    norm, epsilon, attack_steps, step_size
        The training attack, in pixel units; the step size is 2.5 ε / steps unless given. Without an attack
        (`method="standard"`, or ε = 0) they are all reset to one value, so that there is one standard model.
    training_attack
        Of `method="pgd"`: `pgd`; `fgsm`, one step of 1.25 ε from a random start (Wong et al., 2020); or
        `free`: each batch is shown `attack_steps` times, and each time one gradient moves the weights and, by
        ε, the images (Shafahi et al., 2019). The last two can fail, so that robustness is followed.
    held_out
        Training images, as many of each class and at most a tenth of all, on which it is followed.
    random_start
        Whether PGD begins at a random point of its ball (TRADES: always, close to the image).
    epsilon_warmup
        Share of the epochs over which the training attack grows from nothing to ε. Where the attack is
        strong for the data, training without it never leaves chance.
    attack_ratio
        Share of each batch that PGD attacks (the α of Balogh & Jelasity, 2023), the rest stays clean.
    beta
        TRADES' weight of robustness against accuracy; 6 as its authors use.
    schedule
        Of the learning rate: `onecycle`; `thirds`, divided by 10 where 1/3, and where 2/3, of the epochs are
        done, between two epochs; or `constant`.
    optimizer
        `sgd` (Nesterov momentum 0.9) or `adam`; `onecycle` moves the momentum too, 0.95 → 0.85 → 0.95.
    seed, data_seed
        Of the initial weights; of the order, augmentation and random starts.
    precision
        In which convolutions and matrix products are computed: `bfloat16` for speed, where the device has it.
        Weights are float32 all the same, and accuracies are measured so.
    save_every
        Keep the weights after every so many epochs (0: only the last).
    origin
        Of imported networks, what tells their weights from others'.
    """

    dataset: str
    architecture: str
    fingerprint: str = ""
    method: Method = "standard"
    norm: Norm = "linf"
    epsilon: Length = 0.0
    attack_steps: Count = 7
    step_size: Length | None = None
    random_start: bool = True
    epsilon_warmup: Share = 0.0
    attack_ratio: Share = 1.0
    beta: NotNegative = 6.0
    training_attack: TrainingAttack = "pgd"
    held_out: Count = 256
    epochs: Count = 20
    batch_size: Count = 128
    learning_rate: NotNegative = 0.2
    schedule: Literal["onecycle", "thirds", "constant"] = "onecycle"
    optimizer: Literal["sgd", "adam"] = "sgd"
    weight_decay: NotNegative = 5e-4
    augment: bool = True
    precision: Precision = "float32"
    seed: int = 0
    data_seed: int = 0
    save_every: Annotated[int, Field(ge=0)] = 0
    origin: str = ""

    def __post_init__(self):
        if (self.method == "imported") != bool(self.origin):
            raise ValueError("imported networks, and no others, have an origin.")
        if self.method == "standard" and self.epsilon:
            raise ValueError(f"method='standard' makes no attack: epsilon must be 0, not {self.epsilon}.")
        fixed: dict[str, object] = {}
        if self.epsilon == 0:
            unused = ("norm", "attack_steps", "step_size", "random_start", "epsilon_warmup", "attack_ratio")
            unused += ("training_attack",)
            fixed |= {name: type(self).__dataclass_fields__[name].default for name in unused}
            fixed["method"] = "imported" if self.origin else "standard"
        if fixed.get("method", self.method) == "trades":
            fixed |= {"attack_ratio": 1.0, "random_start": True, "training_attack": "pgd"}  # it has none
        else:
            fixed["beta"] = 6.0
        cheap = fixed.get("training_attack", self.training_attack)
        if cheap == "pgd":
            fixed["held_out"] = type(self).__dataclass_fields__["held_out"].default
        else:
            fixed |= {"random_start": True, "attack_steps": 1} if cheap == "fgsm" else {"attack_ratio": 1.0}
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @classmethod
    def on(cls, dataset: Dataset | Images, architecture: str, **options) -> Recipe:
        """A recipe for a data set, naming exactly its images."""
        return cls(dataset.slug, architecture, dataset.fingerprint, **options)

    @property
    def is_cheap(self) -> bool:
        """Whether the training attack is one that networks can learn to fool."""
        return self.training_attack != "pgd"

    def attack(self, progress: float = 1.0, pgd_steps: int = 0) -> Attack | None:
        """The training attack when a share `progress` of the epochs is done, None for a standard model.

        Parameters
        ----------
        pgd_steps
            Of PGD, where it is to take the place of a cheap attack.
        """
        if self.epsilon == 0:
            return None
        share = min(1.0, progress / self.epsilon_warmup) if self.epsilon_warmup else 1.0
        if pgd_steps:
            return Attack(share * self.epsilon, self.norm, pgd_steps)
        step_size = self.step_size
        if step_size is None and self.is_cheap:
            step_size = STEP_SIZES[self.training_attack] * self.epsilon
        step_size = None if step_size is None else share * step_size
        return Attack(share * self.epsilon, self.norm, self.attack_steps, step_size, self.random_start)

    @classmethod
    def options(cls, given: Mapping[str, object]) -> dict[str, object]:
        """Check training options, such as `{"epochs": 40, "step_size": "2/255"}`.

        What tells networks of one set apart (data, architecture, method, attack, seeds) is no such option.

        Raises
        ------
        ValueError
            An option is unknown, or its value not of its type or range.
        """
        return read_options(cls, given, but=IDENTITY)

    @property
    def identity(self) -> dict[str, object]:
        """The plain values that are hashed: equal networks are one, however many epochs they keep."""
        made_by = super().identity
        del made_by["save_every"]
        for name in LATER:
            if made_by[name] == type(self).__dataclass_fields__[name].default:
                del made_by[name]
        if not self.origin:  # networks that are trained here have none
            del made_by["origin"]
        if self.schedule == "thirds" and self.epochs % 3:  # which once fell within an epoch
            made_by["thirds"] = "between epochs"
        return made_by

    @property
    def name(self) -> str:
        """The name of the network's files, without their suffix."""
        return f"{re.sub('[^A-Za-z0-9_]+', '_', self.architecture)}-{self.address}"
