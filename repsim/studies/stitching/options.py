"""All that decides how a transform between two given layers is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from repsim.attacks import Attack, Norm
from repsim.studies.stitching.moments import MATCHES
from repsim.studies.stitching.transforms import Initial, Mask
from repsim.support.devices import Precision
from repsim.support.options import Count, Length, NotNegative, Positive, Share, options, read_options

Method = Literal["standard", "pgd", "trades", "least_squares", "pseudo_inverse", "orthogonal"]
Targets = Literal["hard", "soft_1", "soft_2", "soft_12", "soft_1_plus_2"]
Attacked = Literal["stitched", "front", "end", "both"]
SHAPING = ("method", "flatten", "resize", "rank")  # what every method has; direct ones have `ridge` besides
ATTACKING = ("norm", "epsilon", "attack_steps", "step_size", "attack_ratio", "attacked", "beta")


@options("stitching option")
class StitchOptions:
    """Options of finding the transform between two layers; defaults are those of Balogh & Jelasity (2023).

    Attributes
    ----------
    flatten, resize
        See `Layout`.
    rank, initial, mask
        See `Transform`.
    method
        Task loss: `standard`; `pgd`, adversarial training of the stitched network; or `trades`. Direct
        matching of the layers' values, without a task: `least_squares`, `pseudo_inverse` or `orthogonal`.
    ridge
        Of least squares, in units of the mean variance of the front's channels.
    norm, epsilon, attack_steps, step_size
        The training attack, in pixel units; the step size is 2.5 ε / steps unless given.
    attack_ratio
        Share of each batch that PGD attacks (their α). α = 0 is standard training.
    attacked
        Whom the attack of `pgd` is to fool: the stitched network, as it is at each step; or `front`, `end` or
        `both` (half and half): then the adversarial images are made once, before training (a transfer set).
    beta
        TRADES' weight of robustness against accuracy; 6 as its authors use.
    targets
        `hard`, the labels; `soft_1` and `soft_2`, the front's and the end's probabilities; `soft_12`, the
        mean of these two losses; `soft_1_plus_2`, one loss on their averaged logits.
    temperature
        Of soft targets: all logits are divided by it. The loss is not multiplied by its square T², as Hinton
        et al. (2015) do, so that gradients fall with T². What they minimise is minimised with `l1`,
        `cka_weight` and `weight_decay` divided by T², and, by `sgd`, a `learning_rate` times T².
    epochs, batch_size, learning_rate, optimizer, weight_decay
        Of training; `optimizer` is `adam`, or `sgd` with Nesterov momentum 0.9. Of each epoch the images that
        do not fill a last batch are left out, others each time; all are seen where there is one batch only.
    schedule
        `thirds`: the learning rate is divided by 10 where 1/3, and where 2/3, of the epochs are done, between
        two epochs; `constant`; or `onecycle`.
    l1
        Weight in the loss of the mean absolute value of the transform's weights.
    cka_weight
        The loss is increased by `cka_weight` × linear CKA of the transform's values with the end's own ones:
        above 0 it drives them apart, below 0 together.
    augment
        Show images shifted and mirrored, where the data set has that.
    update_batchnorm
        Let the BatchNorm layers of the donors' copies learn the statistics of what they now see, as the
        published code does by default. Donors themselves never change.
    precision
        In which the networks and the transform compute while it is fitted (and a transfer set is made);
        `bfloat16` is faster, and refused where the device does not multiply it itself. The transform's
        weights are float32, and so is all that is measured.
    save_every
        Keep the transform after every so many epochs too (0: the last only).
    seed
        Of the initial transform, the order of the images and random starts.
    """

    flatten: bool = False
    resize: bool = False
    rank: Annotated[int, Field(ge=0)] = 0
    initial: Initial = "random"
    mask: Mask = "identity"
    method: Method = "standard"
    ridge: NotNegative = 0.0
    norm: Norm = "linf"
    epsilon: Length = 0.0
    attack_steps: Count = 10
    step_size: Length | None = None
    attack_ratio: Share = 1.0
    attacked: Attacked = "stitched"
    beta: NotNegative = 6.0
    targets: Targets = "hard"
    temperature: Positive = 1.0
    epochs: Count = 30
    batch_size: Count = 128
    learning_rate: NotNegative = 1e-3
    schedule: Literal["thirds", "constant", "onecycle"] = "thirds"
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: NotNegative = 1e-4
    l1: NotNegative = 0.0
    cka_weight: float = 0.0
    augment: bool = True
    update_batchnorm: bool = False
    precision: Precision = "float32"
    save_every: Annotated[int, Field(ge=0)] = 0
    seed: int = 0

    def __post_init__(self):
        if self.method in ("standard", *MATCHES) and self.epsilon:
            raise ValueError(
                f"method={self.method!r} makes no attack: epsilon must be 0, not {self.epsilon}."
            )
        if self.method == "trades" and self.attacked != "stitched":
            raise ValueError(
                f"TRADES attacks the network that it trains: attacked={self.attacked!r} is for method='pgd'."
            )
        if self.is_direct:
            self._check_direct()
        elif self.ridge:
            raise ValueError(f"ridge is of method='least_squares', not of {self.method!r}.")
        self._normalize()

    def _check_direct(self) -> None:
        if self.mask != "identity":
            raise ValueError(f"mask={self.mask!r} is for task loss: direct matching uses every weight.")
        if self.ridge and self.method != "least_squares":
            raise ValueError(f"ridge is of method='least_squares', not of {self.method!r}.")
        if self.rank and self.method == "orthogonal":
            raise ValueError("an orthogonal match has full rank: rank is for the other methods.")

    def _normalize(self) -> None:
        """Give what has no effect its default: equal transforms, equal addresses."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        fixed: dict[str, object] = {}
        adversarial = self.method in ("pgd", "trades")
        if adversarial and (not self.epsilon or (self.method == "pgd" and not self.attack_ratio)):
            fixed["method"], adversarial = "standard", False
        unused: set[str] = set()
        if self.is_direct:
            unused = {*defaults} - {*SHAPING, "ridge"}
        elif not adversarial:
            unused = {*ATTACKING}
        elif self.method == "trades":
            unused = {"attack_ratio"}
        else:
            unused = {"beta"}
        if self.targets == "hard":
            unused.add("temperature")
        fixed |= {name: defaults[name] for name in unused}
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @property
    def is_direct(self) -> bool:
        """Whether layers' values are matched, rather than a task's loss minimised."""
        return self.method in MATCHES

    @property
    def attack(self) -> Attack | None:
        """The training attack, None without one."""
        if not self.epsilon:
            return None
        return Attack(self.epsilon, self.norm, self.attack_steps, self.step_size)

    @classmethod
    def read(cls, given: Mapping[str, object]) -> dict[str, object]:
        """Check some of the options, such as `{"learning_rate": 0.01, "step_size": "2/255"}`."""
        return read_options(cls, given)

    def but(self, **options) -> StitchOptions:
        """The same options but for some."""
        return StitchOptions(**{**dataclasses.asdict(self), **options})
