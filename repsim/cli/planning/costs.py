"""Passes that a thing takes, and how long and how large one is on a device."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from repsim.data import Dataset
from repsim.models import build_model
from repsim.studies.stitching import StitchOptions
from repsim.support.devices import Precision, check_precision, resolve_device, rounding_to
from repsim.training import Recipe
from repsim.training.model_store import EVALUATED, TrainedModel

FORWARD = 1 / 3  # of a forward and a backward pass
STEPS = 20  # of the attack on test images once a network is trained
MEASURED_FOR = 0.1  # seconds, of each network
FEW, MANY = 2, 128  # images on which passes are measured


@dataclass(frozen=True)
class Network:
    """A network by all that decides how long a pass takes."""

    architecture: str
    image_shape: tuple[int, ...]
    classes: int
    precision: Precision = "float32"

    @classmethod
    def of(cls, model: TrainedModel, precision: Precision = "float32") -> Network:
        """The network of a model that may be there or not."""
        shape, classes = tuple(model.record["image_shape"]), len(model.record["classes"])
        return cls(model.recipe.architecture, shape, classes, precision)

    def built(self) -> nn.Module:
        """One without training."""
        channels = self.image_shape[0]
        neutral = [0.0] * channels, [1.0] * channels
        return build_model(self.architecture, self.image_shape, self.classes, *neutral).eval()


@cache
def check(network: Network) -> None:
    """Refuse what cannot be built, without filling it with numbers.

    Raises
    ------
    ValueError
        As `build_model`.
    """
    with torch.device("meta"):
        network.built()


@dataclass(frozen=True)
class Cost:
    """The cost of one image forward and backward: seconds, bytes kept in between; and bytes of weights."""

    seconds: float
    kept: float
    weights: float


@cache
def cost(network: Network, device: str) -> Cost:
    """Measured on a few grey images, on a device: two of them where passes take long."""
    target = resolve_device(device)
    check_precision(network.precision, target)
    model = network.built().to(target)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def once(count: int) -> float:
        images = torch.full((count, *network.image_shape), 0.5, device=target, requires_grad=True)
        labels = torch.zeros(count, dtype=torch.long, device=target)
        started = time.perf_counter()
        with rounding_to(network.precision, target):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        if target.type != "cpu":
            torch.accelerator.synchronize(target)
        return time.perf_counter() - started

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        once(FEW)
    count = max(FEW, min(MANY, round(FEW * MEASURED_FOR / once(FEW))))
    return Cost(once(count) / count, sum(kept.values()) / FEW, weights)


def training_passes(recipe: Recipe, data: Dataset) -> float:
    """Passes of one image in training a network and measuring its accuracy."""
    attacked = min(EVALUATED, len(data.test)) * STEPS if recipe.epsilon else 0
    watched = recipe.epochs * recipe.held_out * STEPS if recipe.is_cheap else 0
    trained = recipe.epochs * len(data.train) * passes_of_one(recipe)
    return trained + watched + FORWARD * len(data.test) + attacked


def passes_of_one(settings: Recipe | StitchOptions) -> float:
    """Passes of one image in one epoch: the loss's own, and those of the attack."""
    if settings.epsilon == 0:
        return 1.0
    if settings.method == "trades":
        return 2 + FORWARD + settings.attack_steps
    if isinstance(settings, Recipe) and settings.training_attack == "free":
        return settings.attack_steps
    return 1 + settings.attack_ratio * settings.attack_steps


def stitch_passes(options: StitchOptions, images: int) -> float:
    """Passes of one image in fitting a map between two networks: at most, since what is fixed is kept."""
    if options.is_direct:
        return 2 * FORWARD * images
    if options.attacked != "stitched":  # their adversarial images are made once
        return images * (options.epochs + options.attack_ratio * options.attack_steps)
    return images * options.epochs * passes_of_one(options)


def duration(seconds: float) -> str:
    """A duration as a person says it: `–`, `40 s`, `5 min`, `3.2 h`, `12 days`."""
    if seconds == 0:
        return "–"
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            count = seconds / length
            return f"{count:.1f} {unit}" if count < 10 and unit != "min" else f"{count:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"


def size(count: float) -> str:
    """Bytes as a person says it."""
    return f"{count / 1e9:.1f} GB"


def memory_of(device: torch.device) -> float:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
