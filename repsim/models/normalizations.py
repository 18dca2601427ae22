"""Normalisations as their users write them: a published name, or numbers.

(x − mean) / std per channel, of pixels in [0, 1].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from repsim.support import messages

BY_DATA = "data"  # what names mean and deviation of the data set's own training images
ANY_CHANNELS = {"none": (0.0, 1.0), "0.5": (0.5, 0.5)}  # the same for each, however many there are
# The published ones. CIFAR-10 has several: `cifar10` and `cifar10_fast_adversarial` are the deviation of all
# pixels, rounded differently; `cifar10_pytorch_cifar`, also of `robustness`, is the mean deviation within
# images; `cifar10_wide_resnet` and `cifar100_wide_resnet` are those of the WideResNet code, of 255.
PER_CHANNEL = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar10_pytorch_cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar10_fast_adversarial": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar10_wide_resnet": (
        (125.3 / 255, 123.0 / 255, 113.9 / 255),
        (63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "cifar100_wide_resnet": (
        (129.3 / 255, 124.1 / 255, 112.4 / 255),
        (68.2 / 255, 65.4 / 255, 70.4 / 255),
    ),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "tiny_imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}
WRITTEN = '"0.4914 0.4822 0.4465 / 0.2470 0.2435 0.2616", or in YAML {mean: [...], std: [...]}'
OF_255 = 2.0  # the greatest number that is still taken for one of pixels in [0, 1]


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, and what they are called.

    Attributes
    ----------
    name
        As it is chosen by.
    mean, std
        Of pixels in [0, 1]; a single one stands for all channels.
    note
        What was made of the numbers, as a sentence; empty where they were taken as they stood.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str = ""

    def of_channels(self, channels: int) -> Normalization:
        """The same for so many channels.

        Raises
        ------
        ValueError
            It has another number of them; told with what to write.
        """
        if len(self.mean) == 1 and self.name not in PER_CHANNEL:
            return Normalization(self.name, self.mean * channels, self.std * channels, self.note)
        if len(self.mean) != channels:
            has, takes = (f"{n} channel{'s' * (n != 1)}" for n in (len(self.mean), channels))
            example = "0.13 / 0.31" if channels == 1 else " ".join(["0.5"] * channels) + " / 0.5"
            raise ValueError(
                f"normalization {self.name} has {has}, the images have {takes}: choose one of "
                f"{', '.join([BY_DATA, *known(channels)])}, or write its numbers, such as "
                f'normalization="{example}" (mean / std).'
            )
        return self

    @property
    def numbers(self) -> str:
        """The numbers in words, each to three digits."""
        return in_numbers(self.mean, self.std)


def in_numbers(mean: Iterable[float], std: Iterable[float]) -> str:
    """Mean and deviation of the channels in words: `mean 0.491 0.482 0.447, std 0.247 0.243 0.262`."""
    told = (" ".join(f"{value:.3g}" for value in values) for values in (mean, std))
    return "mean {}, std {}".format(*told)


def known(channels: int) -> list[str]:
    """The names of those for images of so many channels."""
    return [*ANY_CHANNELS, *(name for name, (mean, _) in PER_CHANNEL.items() if len(mean) == channels)]


def find_normalization(given: str | float | Mapping) -> Normalization:
    """A normalisation by its name or its numbers.

    Parameters
    ----------
    given
        A name; numbers of mean and deviation, `"0.49 0.48 0.45 / 0.25 0.24 0.26"`, with spaces or commas
        between them, a single one for all channels; or a mapping of `mean` and `std` to such numbers. They
        are of pixels in [0, 1], and of 255 where one is above 2.

    Raises
    ------
    ValueError
        It is neither; or the numbers are not as many, not finite, or a deviation is not above 0.
    """
    if isinstance(given, Mapping):
        if set(given) != {"mean", "std"}:
            raise ValueError(
                f"normalization as a mapping has mean and std, not {', '.join(map(str, given))}."
            )
        mean, std = (_numbers(given[name]) for name in ("mean", "std"))
        return _written(mean, std, str(dict(given)))
    name = str(given).strip()
    if name in ANY_CHANNELS:
        mean, std = ANY_CHANNELS[name]
        return Normalization(name, (mean,), (std,))
    if name in PER_CHANNEL:
        return Normalization(name, *PER_CHANNEL[name])
    if re.search(r"[A-Za-z]{3}", name) or not re.search(r"\d", name):
        options = [BY_DATA, *ANY_CHANNELS, *PER_CHANNEL]
        raise ValueError(f"{messages.unknown('normalization', name, options)} Or numbers: {WRITTEN}.")
    parts = name.split("/")
    if len(parts) != 2:
        raise ValueError(f"normalization {name!r}: numbers are written as mean / std: {WRITTEN}.")
    return _written(_numbers(parts[0]), _numbers(parts[1]), name)


def _numbers(given: object) -> tuple[float, ...]:
    if isinstance(given, str):
        given = [number for number in re.split(r"[\s,;()\[\]]+", given) if number]
    values = given if isinstance(given, Sequence) else [given]
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"normalization takes numbers, not {given!r}: {WRITTEN}.")
    return found


def _written(mean: tuple[float, ...], std: tuple[float, ...], text: str) -> Normalization:
    length = max(len(mean), len(std))
    if {len(mean), len(std)} - {1, length}:
        raise ValueError(
            f"normalization {text}: {len(mean)} means and {len(std)} deviations, but there are as many of "
            "each, or one for all."
        )
    mean, std = (values * length if len(values) == 1 else values for values in (mean, std))
    if min(std) <= 0:
        raise ValueError(f"normalization {text}: deviations must be above 0; it is mean / std.")
    note = ""
    if max(*mean, *std) > OF_255:
        if max(mean) > OF_255 >= max(std) or (max(std) > OF_255 and 0 < max(mean) <= 1):
            raise ValueError(f"normalization {text}: mean and std are of pixels up to 255, or both up to 1.")
        mean, std = (tuple(value / 255 for value in values) for values in (mean, std))
        note = "Numbers above 2 are of pixels up to 255, and were divided by it."
    exact = (" ".join(f"{value:.9g}" for value in values) for values in (mean, std))
    return Normalization(" / ".join(exact), mean, std, note)
