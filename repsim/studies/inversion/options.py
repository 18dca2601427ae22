"""All that decides how an image is moved towards another's representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from repsim.support.devices import Precision
from repsim.support.options import Count, Length, NotNegative, options, read_options

Optimizer = Literal["momentum", "adam"]
STEP_SIZES = {"momentum": 1 / 8, "adam": 0.01}


@options("inversion option")
class InversionOptions:
    """Options of inverting images; the defaults are those of Jones et al. (2022), but for `tolerance`.

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
        Of the network: `bfloat16` for speed, where the device has it. Near a target its rounding is as large
        as what is left of the distance: a batch of which half are within 5 %, or an image has converged, goes
        on in float32. What is reported in the end is float32.
    """

    optimizer: Optimizer = "momentum"
    iterations: Count = 2000
    step_size: Length | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    use_best: bool = True
    epsilon: Length = 0.0
    tolerance: NotNegative = 0.01
    precision: Precision = "float32"

    def __post_init__(self):
        # Equal images, equal addresses: what has no effect has its default.
        fixed = {"step_size": STEP_SIZES[self.optimizer] if self.step_size is None else self.step_size}
        if not fixed["step_size"]:
            raise ValueError("step_size must be above 0: images would stay as they are.")
        if self.optimizer == "adam":
            fixed["momentum"] = 0.9
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, given: Mapping[str, object]) -> dict[str, object]:
        """Check some of the options, such as `{"tolerance": 0, "step_size": "1/8"}`."""
        return read_options(cls, given)
