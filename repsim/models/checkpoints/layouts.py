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


def rewritten(*changes: tuple[str, str | Callable[[re.Match], str]]) -> Callable[[Weights], Weights]:
    """Rename weights by regular expressions and what stands for them, one after the other."""

    def rename(key: str) -> str:
        for pattern, new in changes:
            key = re.sub(pattern, new, key)
        return key

    return by_key(rename)


def _stage(first: int) -> Callable[[re.Match], str]:
    """A block of a stage by our name; ours count stages from 1, theirs from `first`."""
    return lambda match: f"layer{int(match[1]) - first + 1}.{match[2]}."


def _numbered_parts(names: Mapping[int, str]) -> Callable[[re.Match], str]:
    """Names that the numbered parts of a sequence have in a block of ours."""
    return lambda match: names.get(int(match[1]), match[0].rstrip(".")) + "."


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


_DEEPMIND = (  # parts of Gowal's and Rebuffi's networks
    (r"\.batchnorm_0\.", ".bn1."),
    (r"\.batchnorm_1\.", ".bn2."),
    (r"\.conv_1\.", ".conv2."),
    (r"\.conv_0\.", ".conv1."),
    (r"^batchnorm\.", "bn2."),
    (r"^logits\.", "fc."),
)
_WEIAICUNZAI = "Keys are those of weiaicunzai's pre-activation ResNet; they were given our names."
_BIASED_PREACTIVATION = (
    (r"^pre\.0\.", "conv1."),
    (r"^pre\.1\.", "bn1."),
    (r"^stage(\d)\.(\d+)\.", _stage(1)),
    (
        r"residual\.(\d)\.",
        _numbered_parts({0: "bn1", 2: "conv1", 3: "bn2", 5: "conv2", 6: "bn3", 8: "conv3"}),
    ),
    (r"^linear\.", "fc."),
)

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
    # residual
    Layout(
        r"^layer\d\.\d+\.downsample\.1\.",
        "Keys are those of CIFAR ResNets with downsample for shortcut; they were given our names.",
        rewritten((r"\.downsample\.", ".shortcut.")),
    ),
    Layout(
        r"^layer\d\.\d+\.downsample\.0\.",
        "Keys are those of pre-activation ResNets with downsample for shortcut; they were given our names.",
        rewritten((r"^bn\.", "bn2."), (r"\.downsample\.0\.", ".shortcut.")),
        ("raw_shortcut", ""),
    ),
    Layout(
        r"^layer\.\d\.block\.\d+\.batchnorm_0\.",
        "Keys are those of the WideResNet of Gowal et al. (2020); they were given our names.",
        rewritten((r"^init_conv\.", "conv1."), (r"^layer\.(\d)\.block\.(\d+)\.", _stage(0)), *_DEEPMIND),
        ("silu+same_padding", "same_padding"),
    ),
    Layout(
        r"^layer_\d\.\d+\.batchnorm_0\.",
        "Keys are those of the PreActResNet of Rebuffi et al. (2021); they were given our names.",
        rewritten(
            (r"^conv_2d\.", "conv1."),
            (r"^layer_(\d)\.(\d+)\.", _stage(0)),
            (r"\.conv_2d_(\d)\.", r".conv\1."),
            (r"\.shortcut\.", ".shortcut.1."),
            *_DEEPMIND,
        ),
        ("silu", ""),
    ),
    Layout(
        r"^conv2_x\.",
        "Keys are those of weiaicunzai's ResNet; they were given our names.",
        rewritten(
            (r"^conv1\.0\.", "conv1."),
            (r"^conv1\.1\.", "bn1."),
            (r"^conv(\d)_x\.(\d+)\.", _stage(2)),
            (
                r"residual_function\.(\d)\.",
                _numbered_parts({0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}),
            ),
            (r"\.shortcut\.", ".downsample."),
        ),
    ),
    Layout(
        r"^stage\d\.\d+\.residual\.8\.",
        _WEIAICUNZAI,
        rewritten(*_BIASED_PREACTIVATION),
        ("raw_shortcut+first_stride", "raw_shortcut", ""),
    ),
    Layout(
        r"^stage\d\.\d+\.residual\.5\.",
        _WEIAICUNZAI,
        rewritten(*_BIASED_PREACTIVATION),
        ("raw_shortcut", ""),
    ),
    Layout(
        r"^conv\d\.\d+\.residual\.6\.",
        "Keys are those of weiaicunzai's WideResNet; they were given our names.",
        rewritten(
            (r"^init_conv\.", "conv1."),
            (r"^conv([234])\.(\d+)\.", _stage(2)),
            (r"residual\.(\d)\.", _numbered_parts({0: "bn1", 2: "conv1", 3: "bn2", 6: "conv2"})),
            (r"\.shortcut\.0\.", ".shortcut."),
            (r"^bn\.", "bn2."),
            (r"^linear\.", "fc."),
        ),
        ("raw_shortcut", ""),
    ),
    Layout(
        r"^layer2\.0\.shortcut\.0\.bias",
        "Keys are those of meliketoy's WideResNet; they were given our names.",
        rewritten((r"^bn1\.", "bn2."), (r"^linear\.", "fc."), (r"\.shortcut\.0\.", ".shortcut.")),
        ("raw_shortcut+second_stride", "raw_shortcut", ""),
    ),
]
