"""The contents of a file → the weights of a network, and what else the file says of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

# Where weights are in a file that holds more; the first that is there.
CONTAINERS = ("model", "state_dict", "model_state_dict", "net", "model_state", "network", "weights", "params")
WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's and a wrapping network's
# Not "best …", which need not be of the epoch that was saved, and not adversarial accuracy.
ACCURACIES = ("nat_prec1", "accuracy", "acc", "test_acc", "val_acc")
NORMS = {"2": "l2", "l2": "l2", "inf": "linf", "linf": "linf", "l_2": "l2", "l_inf": "linf"}
SMALLEST_LEVEL = 0.5  # L∞ in names is counted in levels of 255 from here on: nobody trains at ε = 0.5


@dataclass
class Found:
    """The facts known so far of the network in a file; each note is a sentence."""

    weights: dict[str, Tensor]
    format: str
    notes: list[str]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    facts: dict = field(default_factory=dict)  # epsilon, norm, accuracy, epoch


def unpack(content: object, source: str) -> Found:
    """Find the weights in what a file holds, without wrappers, attackers and normalisers.

    Raises
    ------
    ValueError
        There are no weights in it.
    """
    weights, name = _weights(content, source)
    notes: list[str] = []
    kind = "state dict" if name is None else f"checkpoint with its weights as {name!r}"
    weights, wrapped = _without(weights, WRAPPERS[:2])
    found = Found(weights, kind, notes)
    if any(key.startswith(("attacker.", "normalizer.")) for key in weights):
        _open_attacker_model(found, wrapped)
    elif wrapped:
        notes.append(f"All keys begin with {wrapped}, which was left out.")
    found.weights, inner = _without(found.weights, WRAPPERS)
    if inner:
        notes.append(f"All keys of the network begin with {inner}, which was left out.")
    _take_normalization(found, "normalize.mean", "normalize.std")
    if isinstance(content, Mapping):
        found.facts = _facts(content)
    return found


def _weights(content: object, source: str) -> tuple[dict[str, Tensor], str | None]:
    """The tensors, and the name that they have in the file where it holds more."""
    if state := _state(content):
        return state, None
    if isinstance(content, Mapping):
        for name in CONTAINERS:
            if name in content and (state := _state(content[name])):
                return state, name
        held = ", ".join(f"{key!r}" for key in list(content)[:8]) or "nothing"
        kind = f"a mapping of {held}"
    else:
        kind = f"a {type(content).__name__}"
    raise ValueError(f"{source} holds no weights of a network: it is {kind}. Expected names → tensors.")


def _state(content: object) -> dict[str, Tensor]:
    """Names → tensors, of a state dict or of a whole pickled network; empty where it is neither."""
    if isinstance(content, Mapping):
        named = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        is_state = len(named) == len(content) and all(isinstance(key, str) for key in content)
        return {key: value.detach() for key, value in named.items()} if is_state else {}
    return dict(_tensors_of(content)) if hasattr(content, "_modules") else {}


def _tensors_of(module: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """A network's weights by its own record, so that its class need not be installed."""
    parts = vars(module)
    left_out = parts.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in parts.get(kind, {}).items():
            if value is not None and name not in left_out:
                yield prefix + name, value.detach()
    for name, child in parts.get("_modules", {}).items():
        if child is not None:
            yield from _tensors_of(child, f"{prefix}{name}.")


def _without(weights: dict[str, Tensor], prefixes: tuple[str, ...]) -> tuple[dict[str, Tensor], str]:
    """Weights without what all of their names begin with, and that beginning."""
    dropped = ""
    while prefix := next((p for p in prefixes if all(key.startswith(p) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        dropped += prefix
    return weights, dropped


def _open_attacker_model(found: Found, wrapped: str) -> None:
    """Take the network and its normaliser out of an `AttackerModel` of the robustness package."""
    found.format = "robustness checkpoint"
    found.notes.append(
        f"Keys begin with {wrapped}model.: a robustness checkpoint. Its normaliser comes first in the "
        "network; its attacker, which holds the same weights, was left out."
    )
    kept = {key: value for key, value in found.weights.items() if not key.startswith("attacker.")}
    found.weights = kept
    _take_normalization(found, "normalizer.new_mean", "normalizer.new_std")
    found.weights, _ = _without(found.weights, ("model.",))


def _take_normalization(found: Found, mean: str, std: str) -> None:
    """Take a normaliser's two tensors out of the weights; what was known already comes before it."""
    if mean not in found.weights or std not in found.weights:
        return
    means, stds = (found.weights.pop(key).flatten().double().tolist() for key in (mean, std))
    if found.mean is not None:  # ((x − m) / s − m') / s' = (x − (m + s m')) / (s s')
        means = [m + s * inner for m, s, inner in zip(found.mean, found.std, means, strict=True)]
        stds = [s * inner for s, inner in zip(found.std, stds, strict=True)]
    found.mean, found.std = tuple(means), tuple(stds)


def _facts(content: Mapping) -> dict:
    """The facts of training in a file: `epoch`, `accuracy`, `epsilon`, `norm`, as far as it has them."""
    facts: dict = {}
    if isinstance(epoch := _number(content.get("epoch")), float):
        facts["epoch"] = int(epoch)
    for name in ACCURACIES:
        if (value := _number(content.get(name))) is not None and 0 <= value <= 100:
            facts["accuracy"] = value / 100 if value > 1 else value
            break
    settings = next((content[name] for name in ("args", "config", "opt", "hparams") if name in content), None)
    return facts | _training(_as_mapping(settings))


def _training(settings: Mapping) -> dict:
    """ε and norm from the settings that a training script saved."""
    facts: dict = {}
    epsilon = next((settings[name] for name in ("eps", "epsilon") if settings.get(name) is not None), None)
    value = _fraction(epsilon)
    if settings.get("adv_train") in (0, False, "0"):
        facts["epsilon"] = 0.0
    elif value is not None:
        facts["epsilon"] = value
    norm = next((settings[n] for n in ("constraint", "norm", "threat_model") if n in settings), None)
    if known := NORMS.get(str(norm).lower()):
        facts["norm"] = known
    return facts


def from_name(name: str) -> dict:
    """ε and norm from a file's name: `resnet18_l2_eps3.ckpt`, `cifar_l2_0_5.pt`, `imagenet_linf_4.pt`."""
    match = re.search(r"(?:^|[_-])(l2|linf)[_-](?:eps)?(\d+(?:[._]\d+)?)(?=[._-]|$)", name.lower())
    if not match:
        return {}
    value = float(match[2].replace("_", "."))
    in_levels = match[1] == "linf" and value >= SMALLEST_LEVEL
    return {"norm": match[1], "epsilon": value / 255 if in_levels else value}


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
        settings = vars(settings)
        if isinstance(settings.get("params"), Mapping):  # cox's Parameters
            settings = settings["params"]
    return settings if isinstance(settings, Mapping) else {}


def _number(value: object) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    try:
        return None if value is None or isinstance(value, str | bool | Tensor) else float(value)
    except (TypeError, ValueError):
        return None


def _fraction(value: object) -> float | None:
    try:
        return float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else _number(value)
    except (ValueError, ZeroDivisionError):
        return None


def normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Tensor]:
    """A normaliser as the weights of our first layer."""
    return {
        "normalize.mean": torch.tensor(mean).view(-1, 1, 1),
        "normalize.std": torch.tensor(std).view(-1, 1, 1),
    }
