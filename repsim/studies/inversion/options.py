"""All that decides how an image is moved towards another's representation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from repsim.attacks import parse_epsilon
from repsim.support import messages
from repsim.support.options import check_known, read_options

Optimizer = Literal["momentum", "adam"]
Precision = Literal["float32", "bfloat16"]
CHOICES = {"optimizer": ("momentum", "adam"), "precision": ("float32", "bfloat16")}
KINDS = {"int": int, "float": (int, float), "bool": bool}
STEP_SIZES = {"momentum": 1 / 8, "adam": 0.01}


@dataclass(frozen=True)
class InversionOptions:
    """How images are inverted; the defaults are those of Jones et al. (2022), but for `tolerance`.

    Attributes
    ----------
    optimizer
        `momentum`: each image's gradient is divided by its norm, and the step follows the moving average
        of these directions. `adam`: Kingma & Ba (2015), on pixels.
    iterations
        Updates of each image.
    step_size
        Length of a step of `momentum`, in pixel units (1/8), or Adam's learning rate (0.01).
    momentum
        Weight of the past in the moving average.
    use_best
        Return the best image found, rather than the last.
    epsilon
        Radius of the L2 ball around the seed that the image must not leave, in pixel units; 0: there is none.
    tolerance
        An image whose representation is as near as this to the target's, relative to the target's norm, has
        converged, and is moved no further. As published: 0, all iterations for all.
    precision
        Of the network: `bfloat16` for speed, where the device has it. What is reported in the end is float32.
    """

    optimizer: Optimizer = "momentum"
    iterations: int = 2000
    step_size: float | None = None
    momentum: float = 0.9
    use_best: bool = True
    epsilon: float = 0.0
    tolerance: float = 0.01
    precision: Precision = "float32"

    def __post_init__(self):
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(messages.unknown(field, getattr(self, field), choices))
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), KINDS.get(field.type)
            if field.name == "epsilon" or kind is None:  # a length may be a text, such as 8/255
                continue
            if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
                raise ValueError(f"{field.name} takes {field.type}, not {value!r}.")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {self.iterations}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is a share in [0, 1), not {self.momentum}.")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be a finite number ≥ 0, not {self.tolerance}.")
        step_size = STEP_SIZES[self.optimizer] if self.step_size is None else self.step_size
        # Equal images, equal addresses: what has no effect has its default, and 1 is 1.0.
        fixed: dict[str, object] = {
            "step_size": parse_epsilon(step_size, "step_size"),
            "epsilon": parse_epsilon(self.epsilon),
            "momentum": 0.9 if self.optimizer == "adam" else float(self.momentum),
            "tolerance": float(self.tolerance),
        }
        if not fixed["step_size"]:
            raise ValueError("step_size must be above 0: images would stay as they are.")
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, **options) -> InversionOptions:
        """Options by name, an unknown one refused with the nearest known."""
        check_known(cls, options, "inversion option")
        return cls(**options)

    @classmethod
    def read(cls, texts: Iterable[str]) -> dict[str, object]:
        """Options from texts such as `iterations=500`; ε and step sizes may be written `1/8`."""
        readers = {"epsilon": parse_epsilon, "step_size": parse_epsilon}
        return read_options(cls, texts, "inversion option", example="tolerance=0", readers=readers)
