"""The keys of well-known code → our names for the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """The keys of one project or library.

    Attributes
    ----------
    marker
        Which of its keys tell it from all others: a regular expression.
    said
        What a note says of it.
    rename
        Its weights by our names; what computes nothing is left out.
    variants
        How its authors' networks depart from ours, in order of likelihood, each as in names (`silu`, or
        `leaky_relu_0.1+bn_eps_1e-3`); `""` where they do not.
    """

    marker: str
    said: str
    rename: Callable[[Weights], Weights]
    variants: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Reading:
    """Weights by our names, and what is to be said of it."""

    weights: Weights
    notes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("",)


def readings(weights: Mapping[str, Tensor]) -> Iterator[Reading]:
    """The weights as they are, then as ours would be called where the names are those of well-known code."""
    yield Reading(dict(weights))
    for layout in LAYOUTS:
        if any(re.search(layout.marker, key) for key in weights):
            yield Reading(layout.rename(dict(weights)), (layout.said,), layout.variants)


def by_key(rename: Callable[[str], str]) -> Callable[[Weights], Weights]:
    """Rename weights one by one; those without a name, "", are left out."""
    return lambda weights: {new: value for key, value in weights.items() if (new := rename(key))}


def _wide_resnet(key: str) -> str:
    if key.startswith("sub_block1."):  # of TRADES' code, where it is never called
        return ""
    key = re.sub(r"^bn1\.", "bn2.", key)
    key = re.sub(r"^block(\d)\.layer\.(\d+)\.", r"layer\1.\2.", key)
    return key.replace("convShortcut", "shortcut")


def _preactivation(key: str) -> str:
    key = re.sub(r"^bn\.", "bn2.", key)
    return re.sub(r"^linear\.", "fc.", key).replace("shortcut.0.", "shortcut.")


def _cifar_resnet(key: str) -> str:
    return re.sub(r"^linear\.", "fc.", key)


def _old_torchvision(key: str) -> str:
    if key.startswith(("aux1.", "aux2.", "AuxLogits.")):
        return ""
    return re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key)


LAYOUTS = [
    Layout(
        r"^block1\.layer\.",
        "Keys are those of the WideResNet of TRADES and of the CKA paper; they were given our names.",
        by_key(_wide_resnet),
    ),
    Layout(
        r"^linear\.",
        "Keys are those of common CIFAR ResNets (linear for fc); they were given our names.",
        by_key(_cifar_resnet),
    ),
    Layout(
        r"^linear\.|shortcut\.0\.",
        "Keys are those of common pre-activation ResNets; they were given our names.",
        by_key(_preactivation),
    ),
    Layout(
        r"\.(norm|conv)\.[12]\.|^aux|^AuxLogits",
        "Keys are torchvision's, with older names or auxiliary classifiers; the latter were left out.",
        by_key(_old_torchvision),
    ),
]
