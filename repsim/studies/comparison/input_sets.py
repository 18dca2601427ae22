"""The images that models are compared on: the same for all, or those that were made for one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from repsim.activations import Layers
from repsim.attacks import Attack, run_attack
from repsim.data import Dataset, ImageSource, Split, as_images, as_split, labelled_images
from repsim.studies.inversion import InvertedSet, Pairs, Start
from repsim.support import artifacts, messages
from repsim.support.labels import as_labels
from repsim.training.model_store import TrainedModel

Inputs = Literal["natural", "inverted", "adversarial"]
INPUTS = ("natural", "inverted", "adversarial")
Images = Float[Tensor, "n c h w"]
NEEDED = {"inverted": ("pairs", "sets"), "adversarial": ("attack",), "natural": ()}
USED = {"inverted": ("pairs", "sets"), "adversarial": ("pairs", "attack"), "natural": ("pairs",)}


@dataclass(frozen=True, eq=False)
class InputSet:
    """Images that models look at together.

    Attributes
    ----------
    owner
        The model that they were made for, which comes first in each pair; None: they are all models' alike.
    identity
        What decides the images and labels, as plain values.
    load
        The images, and their labels if they have any: made or read when they are needed.
    """

    generated_for: str | None
    identity: Mapping[str, object]
    load: Callable[[], tuple[Images, Tensor | None]]


def as_data(data: Dataset | Split | ImageSource) -> Dataset | Split | Tensor:
    """The data that models are compared on, once read: images that have labels are a split."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Split):
        return as_split(data, "images")
    images, labels = labelled_images(data)
    return images if labels is None else Split(images, as_labels(labels))


def make_input_sets(
    models: Mapping[str, TrainedModel],
    data: Dataset | Split | Tensor,
    inputs: Inputs,
    layer: Layers,
    *,
    pairs: Pairs | None = None,
    sets: Mapping[str, InvertedSet] | None = None,
    attack: Attack | None = None,
) -> list[InputSet]:
    """The input sets of `compare_models`; see there.

    Raises
    ------
    ValueError
        Something that these inputs need is missing, or something was given that they have no use for; or what
        was given does not fit.
    """
    if inputs not in INPUTS:
        raise ValueError(messages.unknown("inputs", inputs, INPUTS))
    given = {"pairs": pairs, "sets": sets, "attack": attack}
    for name, value in given.items():
        if value is None and name in NEEDED[inputs]:
            raise ValueError(f"inputs={inputs!r} needs {name}.")
        if value is not None and name not in USED[inputs]:
            raise ValueError(f"{name} has no use with inputs={inputs!r}.")
    split = data.test if isinstance(data, Dataset) else data
    images, labels = (split.images, split.labels) if isinstance(split, Split) else (split, None)
    if pairs is not None:
        if labels is None:
            raise ValueError("pairs are of a data set's test images: give the data set, or its test split.")
        images, labels = pairs.targets(split), labels[pairs.target_index]
    (shape,) = {tuple(model.record["image_shape"]) for model in models.values()}
    if images.shape[1:] != shape or not len(images):
        raise ValueError(
            f"the models take images of shape {shape}; given are {len(images)} of shape "
            f"{tuple(images.shape[1:])}."
        )
    images = as_images(images)
    images = images.to(torch.promote_types(images.dtype, torch.float32))  # of bfloat16 there is no digest
    if inputs == "inverted":
        return _inverted_sets(models, sets, pairs, labels, layer)
    identity = {"images": artifacts.digest(images)}
    if labels is not None:
        identity["labels"] = artifacts.digest(labels)
    if inputs == "natural":
        return [InputSet(None, identity, lambda: (images, labels))]
    if labels is None:
        raise ValueError(
            "an attack needs labels, the right class of every image: give a data set or a split."
        )
    return [_adversarial_set(model, images, labels, attack, identity) for model in models.values()]


def _adversarial_set(
    model: TrainedModel, images: Images, labels: Tensor, attack: Attack, identity: Mapping[str, object]
) -> InputSet:
    made = {**identity, "attack": dataclasses.asdict(attack), "weights": model.weights}
    return InputSet(model.name, made, lambda: (run_attack(model.network, images, labels, attack), labels))


def _inverted_sets(
    models: Mapping[str, TrainedModel],
    sets: Mapping[str, InvertedSet],
    pairs: Pairs,
    labels: Tensor,
    layer: Layers,
) -> list[InputSet]:
    """Input sets of inverted images: what one shows to its model is its target, whose label it has."""
    input_sets = []
    for name in check_sets(models, sets, pairs, layer, "seed"):
        found = sets[name]
        identity = {"set": found.recipe.address, "checksum": found.record["checksum"]}
        identity["labels"] = artifacts.digest(labels)
        input_sets.append(InputSet(name, identity, lambda found=found: (found.images, labels)))
    return input_sets


def check_sets(
    models: Mapping[str, TrainedModel],
    sets: Mapping[str, InvertedSet],
    pairs: Pairs,
    layer: Layers,
    start: Start,
) -> list[str]:
    """The models that have inverted images, in the order of `models`, after a check that these fit.

    Raises
    ------
    ValueError
        None has; or a set is of another model or layer, of other pairs, or began otherwise than `start`.
    """
    own = [name for name in models if name in sets]
    if not own:
        raise ValueError(f"none of the {len(models)} models has inverted images here.")
    for name in own:
        sets[name].check_model(models[name])
        recipe = sets[name].recipe
        if recipe.start != start:
            began = {"seed": "the pairs' seeds", "noise": "noise"}
            raise ValueError(
                f"the images inverted through {name} began as {began[recipe.start]}; needed are such as "
                f"began as {began[start]}."
            )
        if recipe.layer != layer:
            raise ValueError(
                f"the images of {name} were inverted at layer {recipe.layer!r}; the comparison is of "
                f"{layer!r}."
            )
        sets[name].check_pairs(pairs)
    return own
