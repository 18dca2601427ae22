"""Networks by a name or a file: our own, and those that others trained, which become stored ones here.

A foreign checkpoint is read once, is given the normalisation it was trained with, is checked against the data
set and becomes two files of our store, so that whatever is made from it (stitches, inverted images, values of
measures) belongs to exactly these weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from repsim.attacks import Attack, Norm, epsilon_text
from repsim.data import Dataset
from repsim.models import build_model
from repsim.models.checkpoints import Checkpoint, read_checkpoint
from repsim.store import Draft
from repsim.support import artifacts
from repsim.support.options import Length, options
from repsim.support.progress import progress_bar
from repsim.training.model_store import MODELS, TrainedModel, measure, stored_model
from repsim.training.recipe import Recipe

ELSEWHERE = ("torchvision:", "timm:", "robustbench:", "hf:")  # how names of others' networks begin
# Name or file → options, or None; as notebooks' parameter `checkpoints` has them.
Checkpoints = Mapping[str, Mapping[str, object] | None]
UNKNOWN = "imported"  # where networks go that are loaded without a data set
NORMALIZATIONS = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
TOLERANCE = 0.02  # between the accuracy that a file records and what its network has here


@options("checkpoint option")
class ImportOptions:
    """Options of importing: facts that a file may not say of its network, or say wrongly.

    Attributes
    ----------
    architecture
        As `build_model` takes it; found from the names and shapes of the weights unless given.
    epsilon, norm
        What it was trained at, ε in pixel units; 0 for a standard network.
    seed
        Tells networks of one architecture and ε apart; the next that is free unless given.
    normalization
        `data` (mean and deviation of the data set's training images), `imagenet`, `cifar10` or `none`, for
        files that hold no normalisation; `data` unless given.
    sha256
        What the file's checksum must begin with.
    """

    architecture: str = ""
    epsilon: Length | None = None
    norm: Norm | None = None
    seed: int | None = None
    normalization: Literal["data", "none", "imagenet", "cifar10"] | None = None
    sha256: str = ""


def load_model(
    name: str | Path, device: str = "auto", *, dataset: Dataset | None = None, **options
) -> TrainedModel:
    """A network by its name, its address, or a file, whoever trained it.

    Parameters
    ----------
    name
        Of a stored model: either of its files, its name or its address. Of others: a checkpoint file in any
        format that `read_checkpoint` knows, or `torchvision:…`, `timm:…`, `robustbench:…`, `hf:…`.
    dataset
        What a foreign network classifies: it is checked against it, and takes its class names.
    options
        Of `ImportOptions`, for foreign networks.

    Raises
    ------
    ValueError
        There is no such model; or the file is no checkpoint, is of another architecture, has another number
        of classes or channels than the data set, or does not say what it was trained at.
    """
    return _load(name, device, dataset, options, [])


def _load(
    name: str | Path,
    device: str,
    dataset: Dataset | None,
    options: dict[str, object],
    among: list[TrainedModel],
) -> TrainedModel:
    if not is_foreign(name):
        if options:
            raise ValueError(f"{name} is a model of the store, which takes no {', '.join(options)}.")
        return stored_model(name, device)
    return _imported(str(name), ImportOptions(**options), dataset, device, among)


def is_foreign(name: str | Path) -> bool:
    """Whether a name or file is of a network that is not, or not yet, a model of our store.

    A name that ends as files do is a file's, there or not: names of our models have no dot.
    """
    path = Path(name)
    ours = path.suffix in (".json", ".safetensors") and path.with_suffix(".json").is_file()
    return not ours and (path.is_file() or bool(path.suffix) or str(name).startswith(ELSEWHERE))


def load_models(
    checkpoints: Checkpoints, dataset: Dataset, *, device: str = "auto", progress: bool = True
) -> list[TrainedModel]:
    """Networks by names or files → their `ImportOptions`: `{"robust.pt": {"epsilon": "8/255"}}`.

    Networks of one architecture and ε are numbered by their seed where the options do not number them.

    Raises
    ------
    ValueError
        See `load_model`; an option is unknown; or two files hold one network.
    """
    found: list[TrainedModel] = []
    for name, given in progress_bar([*checkpoints.items()], "checkpoints", "network", progress):
        model = _load(name, device, dataset, dict(given or {}), found)
        if same := [each for each in found if each.weights == model.weights]:
            raise ValueError(f"{name} holds the same network as {same[0].name}, which is there already.")
        model.check_classes(dataset)
        found.append(model)
    return found


def describe(models: Iterable[TrainedModel]) -> str:
    """Describe what was found in files of imported networks: a line for each, and one for notes."""
    lines = []
    for model in models:
        recipe, source = model.recipe, model.record.get("source", {})
        trained = f"ε = {epsilon_text(recipe.epsilon)} ({recipe.norm})" if recipe.epsilon else "standard"
        clean = [
            row["accuracy"]
            for row in model.record["accuracies"]
            if row["attack"] == "pgd" and row["epsilon"] == 0
        ]
        accuracy = f", accuracy {clean[0]:.3f}" if clean else ""
        file, kind = source.get("file", model.name), source.get("format", "model of the store")
        lines.append(f"{file}: {kind}, {recipe.architecture}, {trained}, seed {recipe.seed}{accuracy}")
        lines += [f"    {note}" for note in source.get("notes", [])]
    return "\n".join(lines)


def _imported(
    name: str, options: ImportOptions, dataset: Dataset | None, device: str, among: list[TrainedModel]
) -> TrainedModel:
    shape = dataset.image_shape if dataset else None
    checkpoint = read_checkpoint(name, architecture=options.architecture, image_shape=shape)
    if not checkpoint.checksum.startswith(options.sha256.lower()):
        raise ValueError(
            f"{name} is not the file that was meant: its SHA-256 is {checkpoint.checksum[:12]}…, expected "
            f"{options.sha256[:12]}…"
        )
    if dataset:
        _check_fits(checkpoint, dataset)
    epsilon = checkpoint.epsilon if options.epsilon is None else options.epsilon
    if epsilon is None:
        raise ValueError(
            f"{name} does not say what it was trained at: epsilon=0 (in YAML, {name}: {{epsilon: 0}}) if "
            "it is a standard network, such as epsilon=8/255 if it is a robust one."
        )
    kind = (checkpoint.architecture, epsilon)
    alike = [each.recipe.seed for each in among if (each.recipe.architecture, each.recipe.epsilon) == kind]
    network, notes = _network(checkpoint, options, dataset)
    weights = network.state_dict()
    recipe = Recipe(
        dataset.slug if dataset else UNKNOWN,
        checkpoint.architecture,
        dataset.fingerprint if dataset else "",
        method="imported",
        norm=options.norm or checkpoint.norm or "linf",
        epsilon=epsilon,
        epochs=checkpoint.epoch or 1,
        seed=max(alike, default=-1) + 1 if options.seed is None else options.seed,
        origin=artifacts.digest(*(weights[key].float() for key in sorted(weights))),
    )
    model = _keep(recipe, weights, checkpoint, notes, dataset, device)
    if dataset:
        _measure(model, dataset)
    return model


def _check_fits(checkpoint: Checkpoint, dataset: Dataset) -> None:
    channels = checkpoint.image_shape[0]
    if channels != dataset.image_shape[0]:
        kinds = {1: "grey-scale images (1 channel)", 3: "colour images (3 channels)"}
        takes, has = (kinds.get(n, f"{n} channels") for n in (channels, dataset.image_shape[0]))
        raise ValueError(f"{checkpoint.source} takes {takes}, {dataset.title} has {has}.")
    if checkpoint.num_classes != len(dataset.classes):
        raise ValueError(
            f"{checkpoint.source} has {checkpoint.num_classes} classes, {dataset.title} has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes[:3])}, …)."
        )


def _network(
    checkpoint: Checkpoint, options: ImportOptions, dataset: Dataset | None
) -> tuple[nn.Module, list[str]]:
    """The network with its normalisation, and what was found."""
    notes = list(checkpoint.notes)
    channels = checkpoint.image_shape[0]
    chosen = options.normalization
    if chosen in NORMALIZATIONS:
        mean, std = (values[:channels] for values in NORMALIZATIONS[chosen])
        notes.append(f"Normalisation: {chosen}, as asked.")
    elif checkpoint.mean is not None and not chosen:
        mean, std = checkpoint.mean, checkpoint.std
        notes.append("Normalisation: the file's own.")
    elif dataset is not None:
        mean, std = dataset.mean, dataset.std
        why = "as asked" if chosen else "as the file holds none"
        notes.append(f"Normalisation: {dataset.title}'s own, {why}.")
    else:
        raise ValueError(
            f"{checkpoint.source} does not say how it normalises: give a data set, or normalization= one of "
            f"{', '.join(NORMALIZATIONS)}."
        )
    shape = dataset.image_shape if dataset else checkpoint.image_shape
    network = build_model(checkpoint.architecture, shape, checkpoint.num_classes, mean, std)
    weights = {key: value for key, value in checkpoint.weights.items() if not key.startswith("normalize.")}
    network.load_state_dict({**network.state_dict(), **weights})
    return network, notes


def _keep(
    recipe: Recipe,
    weights: dict[str, Tensor],
    checkpoint: Checkpoint,
    notes: list[str],
    dataset: Dataset | None,
    device: str,
) -> TrainedModel:
    classes = dataset.classes if dataset else tuple(str(i) for i in range(checkpoint.num_classes))

    def make(draft: Draft) -> dict[str, object]:
        return {
            "dataset": dataset.title if dataset else "",
            "classes": list(classes),
            "image_shape": list(dataset.image_shape if dataset else checkpoint.image_shape),
            "torch": torch.__version__,
            "checksums": {str(recipe.epochs): draft.write(weights)},
            "curve": [],
            "accuracies": [],
            "source": {
                "file": Path(checkpoint.source).name,
                "format": checkpoint.format,
                "sha256": checkpoint.checksum,
                "accuracy": checkpoint.accuracy,
                "notes": notes,
            },
        }

    return dataclasses.replace(MODELS.obtain(recipe, make), device=device)


def _measure(model: TrainedModel, dataset: Dataset) -> None:
    """Clean accuracy on the data that are there, beside what the file records."""
    if model.record["accuracies"]:
        return
    accuracy = measure(model, dataset, [Attack(0.0, model.recipe.norm)])["accuracy"].item()
    recorded = model.record["source"]["accuracy"]
    chance = 1 / len(dataset.classes)
    note = ""
    if recorded is not None and abs(recorded - accuracy) > TOLERANCE:
        note = (
            f"Accuracy on {len(dataset.test)} test images of {dataset.title} is {accuracy:.3f}, the file "
            f"records {recorded:.3f}: other images, another normalisation, or another order of classes?"
        )
    elif accuracy < 2 * chance:
        note = (
            f"Accuracy on {dataset.title} is {accuracy:.3f}, chance is {chance:.3f}: is it normalised as in "
            "training, and are the classes in the same order?"
        )
    if note:
        model.record["source"]["notes"].append(note)
        MODELS.add(
            model.recipe, lambda stored: stored and {**stored.record, "source": model.record["source"]}
        )
