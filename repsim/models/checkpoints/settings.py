"""Facts of training in a file: ε with its unit, norm, accuracy, epoch; names of the architecture."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

# Not "best …", which need not be of the epoch that was saved, and not adversarial accuracy.
ACCURACIES = ("nat_prec1", "accuracy", "acc", "test_acc", "val_acc")
SETTINGS = (
    "args",
    "config",
    "opt",
    "hparams",
    "hyper_parameters",
    "cfg",
    "settings",
)  # where scripts keep them
EPSILONS = ("eps", "epsilon", "attack_eps", "attack_epsilon", "train_eps", "adv_eps")
NORM_NAMES = ("constraint", "norm", "threat_model", "attack_norm")
NORMS = {"2": "l2", "l2": "l2", "inf": "linf", "linf": "linf", "l_2": "l2", "l_inf": "linf", "l-inf": "linf"}
ARCHITECTURES = ("arch", "architecture", "model_name", "model", "net", "network", "backbone", "model_arch")
SMALLEST_LEVEL = 0.5  # L∞ is counted in levels of 255 from here on: nobody trains at ε = 0.5
LARGEST_LEVEL = 32  # of 255, that anybody trains at
SMALLEST = (
    1e-3  # up to here, `eps` without a norm is what an optimizer or a normalisation divides by at least
)
OF_OPTIMIZERS = 1e-4  # up to here, it always is
USUAL_L2 = (
    1,
    2,
    3,
    5,
)  # whole numbers at which networks are trained in L2, so that without a norm they may be it
LARGEST_L2 = 10  # of images in [0, 1]; from here on, L2 is counted in levels of 255 as well


def read_facts(content: object, name: str = "") -> tuple[dict, list[str]]:
    """The facts of training in a file: `epoch`, `accuracy`, `epsilon`, `norm`, as far as it has them.

    Parameters
    ----------
    name
        The file's, which counts where the file says nothing.

    Returns
    -------
    The facts, and sentences about how they were read.
    """
    facts: dict = {}
    named = from_name(name)
    content = content if isinstance(content, Mapping) else {}
    if isinstance(epoch := _number(content.get("epoch")), float):
        facts["epoch"] = int(epoch)
    for each in ACCURACIES:
        if (value := _number(content.get(each))) is not None and 0 <= value <= 100:
            facts["accuracy"] = value / 100 if value > 1 else value
            break
    trained, notes = _training(_settings(content), named.get("norm"))
    if trained.get("norm", named.get("norm")) != named.get("norm"):
        named = {}
    if "epsilon" in named and "epsilon" not in trained:
        norm = f" and {named['norm']} are" if "norm" in named else " is"
        notes.append(f"ε = {epsilon_words(named['epsilon'])}{norm} from its name.")
    return named | facts | trained, notes


def architectures(content: object) -> list[str]:
    """Names of the architecture in a file and its settings, as they are written there."""
    if not isinstance(content, Mapping):
        return []
    said = [scope.get(name) for scope in (content, _settings(content)) for name in ARCHITECTURES]
    said += [
        each.get(name) for each in said if isinstance(each, Mapping) for name in ("name", "arch", "type")
    ]
    return list(dict.fromkeys(text for text in said if isinstance(text, str) and text))


def normalization(content: object) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation per channel that a file has beside its weights, or in its settings."""
    if not isinstance(content, Mapping):
        return None
    for scope in (content, _settings(content)):
        mean, std = _several(scope.get("mean")), _several(scope.get("std"))
        if mean and std and len(mean) == len(std) and min(std) > 0:
            return mean, std
    return None


def _settings(content: Mapping) -> dict:
    """The settings that a training script saved; of one name in several places, the first."""
    found: dict = {}
    for name in SETTINGS:
        found = dict(_as_mapping(content.get(name))) | found
    return found


def _training(settings: Mapping, norm_of_name: str | None) -> tuple[dict, list[str]]:
    """ε and norm from settings, and how ε was read."""
    facts: dict = {}
    norm = next((settings[name] for name in NORM_NAMES if settings.get(name) is not None), None)
    if known := NORMS.get(str(norm).lower()):
        facts["norm"] = known
    if settings.get("adv_train") in (0, False, "0"):
        return facts | {"epsilon": 0.0}, []
    for name in EPSILONS:
        value = _fraction(settings.get(name))
        if value is None or 0 < value < OF_OPTIMIZERS:
            continue
        epsilon, note = _in_pixels(name, value, known or norm_of_name)
        facts |= {} if epsilon is None else {"epsilon": epsilon}
        return facts, [note] if note else []
    return facts, []


def _in_pixels(name: str, value: float, norm: str | None) -> tuple[float | None, str]:
    """ε from a setting for images in [0, 1], None where it is not known; and what is said of its unit."""
    said = f"{name} = {value:g} in its settings"
    in_levels = f"{said} is read as {value:g}/255, in levels of 255: give epsilon= if it is not."
    if norm == "linf" and SMALLEST_LEVEL <= value <= LARGEST_LEVEL:
        return value / 255, in_levels
    if norm == "linf" and value > LARGEST_LEVEL:
        return None, f"{said} is no ε of L∞: give epsilon=."
    if norm is None and 0 < value <= SMALLEST:
        return None, f"{said} may be an optimizer's, and is not read as ε: give epsilon=."
    if norm is None and value >= SMALLEST_LEVEL:
        if value == int(value) and 1 <= value <= LARGEST_LEVEL and value not in USUAL_L2:
            return value / 255, in_levels
        return None, f"{said} is of a unit and a norm that it does not say: give epsilon= and norm=."
    if value >= LARGEST_L2:
        return value / 255, in_levels
    return value, ""


def from_name(name: str) -> dict:
    """ε and norm from a file's name: `resnet18_l2_eps3.ckpt`, `cifar_l2_0_5.pt`, `wrn_linf_8_255.pt`.

    What could be read in two ways is not read.
    """
    lowered = re.sub(r"\.(?:pt|pth|ckpt|tar|bin|th|best|latest|safetensors|npz)(?=\.|$)", "", name.lower())
    norms = {NORMS[each] for each in re.findall(r"(?:^|[_-])(l_?2|l[_-]?inf)(?=[_-]|$|eps)", lowered)}
    if len(norms) > 1:
        return {}
    norm = next(iter(norms), None)
    number = r"(\d+(?:\.\d+)?)((?:[_-]\d+)*)(?=[_-]|$)"
    found = re.search(rf"(?:^|[_-])(?:l_?2|l[_-]?inf)[_-]?(?:eps(?:ilon)?)?[_=-]?{number}", lowered)
    found = found or re.search(rf"(?:^|[_-])eps(?:ilon)?[_=-]?{number}", lowered)
    value = _named_value(found[1], re.findall(r"[_-](\d+)", found[2]), norm) if found else None
    return {} if value is None else {**({"norm": norm} if norm else {}), "epsilon": value}


def _named_value(first: str, more: Sequence[str], norm: str | None) -> float | None:
    """ε from the numbers in a name: `8`; `8`, `255`; `0`, `5` for 0.5; None where it could be anything."""
    if more and more[0] == "255":
        return float(first) / 255
    if more and "." not in first and (first == "0" or more[0] == "0"):
        value = float(f"{first}.{more[0]}")
    elif more:
        return None
    else:
        value = float(first)
    if norm == "linf":
        if value > LARGEST_LEVEL:
            return None
        return value / 255 if value >= SMALLEST_LEVEL else value
    if norm == "l2":
        return value if value < LARGEST_L2 else None
    return 0.0 if value == 0 else None


def epsilon_words(epsilon: float) -> str:
    """ε as in names: `4/255`, or `0.5` where it is no whole number of half levels."""
    levels = 2 * epsilon * 255
    return (
        f"{levels / 2:g}/255"
        if levels and abs(levels - round(levels)) < 1e-6 and epsilon < 0.3
        else f"{epsilon:g}"
    )


def _as_mapping(settings: object) -> Mapping:
    if isinstance(settings, argparse.Namespace) or hasattr(settings, "__dict__"):
        settings = settings if isinstance(settings, Mapping) else vars(settings)
        if isinstance(settings.get("params"), Mapping):  # cox's Parameters
            settings = settings["params"]
    return settings if isinstance(settings, Mapping) else {}


def _several(value: object) -> tuple[float, ...] | None:
    """Numbers of a list, an array or a tensor, one per channel; None of anything else."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.flatten().tolist()
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return None
    numbers = [_number(each) for each in value]
    return None if None in numbers else tuple(numbers)


def _number(value: object) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    try:
        return None if value is None or isinstance(value, str | bool | Tensor) else float(value)
    except (TypeError, ValueError):
        return None


def _fraction(value: object) -> float | None:
    """A number, or a text such as `8/255` or `8. / 255.`."""
    if not isinstance(value, str):
        return _number(value)
    above, slash, below = value.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return None
