"""Networks by a name or a file: our own, and those that others trained, which become stored ones here.

A foreign checkpoint is read once, is given the normalisation it was trained with, is checked against the data
set and becomes two files of our store, so that whatever is made from it (stitches, inverted images, values of
measures) belongs to exactly these weights.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BeforeValidator
from torch import Tensor

from repsim.attacks import Attack, Norm, epsilon_text
from repsim.data import Dataset
from repsim.models.checkpoints import Checkpoint, read_checkpoint
from repsim.models.normalizations import (
    BY_DATA,
    WRITTEN,
    Normalization,
    find_normalization,
    known,
)
from repsim.models.own import definition_of
from repsim.store import Draft
from repsim.support import artifacts
from repsim.support.options import Length, options
from repsim.support.progress import progress_bar
from repsim.training.identifying import FEWEST, TOLERANCE, check_fits, network_of, try_architectures, wilson
from repsim.training.model_store import MODELS, TrainedModel, measure, stored_model
from repsim.training.recipe import Recipe

ELSEWHERE = ("torchvision:", "timm:", "robustbench:", "hf:")  # how names of others' networks begin
# Name or file → options, or None; as notebooks' parameter `checkpoints` has them.
Checkpoints = Mapping[str, Mapping[str, object] | None]
UNKNOWN = "imported"  # where networks go that are loaded without a data set


def _normalization(given: object) -> object:
    """The value of `normalization`, once it is known to be one."""
    if given is not None and given != BY_DATA:
        find_normalization(given)
    return given


@options("checkpoint option")
class ImportOptions:
    """Options of importing: facts that a file may not say of its network, or say wrongly.

    Attributes
    ----------
    architecture
        As `build_model` takes it, also with variants (`wrn_28_10+silu`), or a class of one's own
        (`mymodule:Net(width=4)`); found from the names and shapes of the weights unless given.
    epsilon, norm
        What it was trained at, ε in pixel units; 0 for a standard network.
    seed
        Tells networks of one architecture and ε apart; the next that is free unless given.
    normalization
        `data` (mean and deviation of the data set's training images), a published one by its name, or its
        numbers (see `find_normalization`), for files that hold none, or a wrong one; `data` unless given.
    weights
        Which weights of a file that holds several: `ema`, or the key that has them, such as `best_model`.
    sha256
        What the file's checksum must begin with.
    """

    architecture: str = ""
    epsilon: Length | None = None
    norm: Norm | None = None
    seed: int | None = None
    normalization: Annotated[str | float | dict | None, BeforeValidator(_normalization)] = None
    weights: str = ""
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

    Warns
    -----
    UserWarning
        Keys of the weights fit several architectures, and neither the file nor accuracy tells which it is.
    """
    model = _load(name, device, dataset, options, [], progress=True)
    if is_foreign(name) and (left_open := model.record["source"]["left_open"]):
        warnings.warn(f"{name}: {left_open}", stacklevel=2)
    return model


def _load(
    name: str | Path,
    device: str,
    dataset: Dataset | None,
    options: dict[str, object],
    among: list[TrainedModel],
    progress: bool,
) -> TrainedModel:
    if not is_foreign(name):
        if options:
            raise ValueError(f"{name} is a model of the store, which takes no {', '.join(options)}.")
        return stored_model(name, device)
    return _imported(str(name), ImportOptions(**options), dataset, device, among, progress)


def is_foreign(name: str | Path) -> bool:
    """Whether a name or file is of a network that is not, or not yet, a model of our store.

    A name that ends as files do, or has a folder in it, is a file's, there or not: names of our models have
    neither dot nor slash.
    """
    path = Path(name)
    ours = path.suffix in (".json", ".safetensors") and path.with_suffix(".json").is_file()
    named_so = bool(path.suffix) or len(path.parts) > 1 or str(name).startswith(ELSEWHERE)
    return not ours and (path.exists() or named_so)


def asked_of(options: Mapping[str, object]) -> dict[str, object]:
    """The options that decide which weights a file becomes: its record keeps them."""
    return {name: options[name] for name in ("normalization", "weights") if options.get(name)}


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
        model = _load(name, device, dataset, dict(given or {}), found, progress)
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
    name: str,
    options: ImportOptions,
    dataset: Dataset | None,
    device: str,
    among: list[TrainedModel],
    progress: bool,
) -> TrainedModel:
    shape = dataset.image_shape if dataset else None
    checkpoint = read_checkpoint(
        name, architecture=options.architecture, image_shape=shape, weights=options.weights
    )
    if not checkpoint.checksum.startswith(options.sha256.lower()):
        raise ValueError(
            f"{name} is not the file that was meant: its SHA-256 is {checkpoint.checksum[:12]}…, expected "
            f"{options.sha256[:12]}…"
        )
    if dataset:
        check_fits(checkpoint, dataset)
    epsilon = checkpoint.epsilon if options.epsilon is None else options.epsilon
    if epsilon is None:
        raise ValueError(
            f"{name} does not say what it was trained at: epsilon=0 (in YAML, {name}: {{epsilon: 0}}) if "
            "it is a standard network, such as epsilon=8/255 if it is a robust one."
            + "".join(f"\n{note}" for note in checkpoint.notes if "epsilon=" in note)
        )
    kind = (checkpoint.architecture, epsilon)
    alike = [each.recipe.seed for each in among if (each.recipe.architecture, each.recipe.epsilon) == kind]
    normalization, said = _chosen(checkpoint, options, dataset)
    shape = dataset.image_shape if dataset else checkpoint.image_shape
    weights = network_of(checkpoint, checkpoint.architecture, normalization, shape).state_dict()
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
    source = {
        "file": Path(checkpoint.source).name,
        "format": checkpoint.format,
        "sha256": checkpoint.checksum,
        "accuracy": checkpoint.accuracy,
        "asked": asked_of(vars(options)),
        "notes": [*checkpoint.notes, said],
    }
    model = _keep(recipe, weights, checkpoint, source, dataset, device)
    _follow_definition(model)
    accuracy = measure(model, dataset, [Attack(0.0, recipe.norm)])["accuracy"].item() if dataset else None
    tried = model.record.get("tried", {})
    if dataset and not tried and _is_open(checkpoint, accuracy) and len(dataset.test) >= FEWEST:
        rows = try_architectures(checkpoint, dataset, normalization, device, progress)
        tried = {row.architecture: [row.right, row.images] for row in rows}
        _change(model, {"tried": tried})
    notes = _on_accuracy(accuracy, checkpoint, dataset) if dataset else []
    settled, on_keys = _on_keys(checkpoint, dataset, accuracy, tried)
    notes += [on_keys] if on_keys else []
    found = {**source, "notes": [*source["notes"], *notes], "left_open": "" if settled else on_keys}
    if model.record["source"] == source:  # it was stored just now
        _change(model, {"source": found})
    model.record["source"] = found  # of this file, where another with the same weights was stored before
    return model


def _chosen(
    checkpoint: Checkpoint, options: ImportOptions, dataset: Dataset | None
) -> tuple[Normalization, str]:
    """The normalisation, and what is said of it."""
    channels = checkpoint.image_shape[0]
    given, change = options.normalization, "another is chosen by normalization=…"
    own = None
    if checkpoint.mean is not None and checkpoint.std is not None:
        own = Normalization("the file's own", checkpoint.mean, checkpoint.std)
    if given is not None and given != BY_DATA:
        chosen = find_normalization(given).of_channels(channels)
        beside = f" The file's own is {own.numbers}." if own else ""
        note = f" {chosen.note}" if chosen.note else ""
        named = (
            f": {chosen.name}, as asked"
            if isinstance(given, str) and given in known(channels)
            else ", as asked"
        )
        return chosen, f"Normalisation: {chosen.numbers}{named}.{note}{beside}"
    if own and given is None:
        return own, f"Normalisation: {own.numbers}: the file's own; {change}"
    if dataset is None:
        raise ValueError(
            f"{checkpoint.source} does not say how it normalises: give a data set, or normalization= one of "
            f"{_listed(channels)}; or its numbers: {WRITTEN}."
        )
    chosen = Normalization(BY_DATA, dataset.mean, dataset.std)
    why = "as asked" if given else f"as the file holds none; {change}"
    beside = f" The file's own is {own.numbers}." if own else ""
    return chosen, f"Normalisation: {chosen.numbers}: {dataset.title}'s own, {why}.{beside}"


def _listed(channels: int) -> str:
    """The names of normalisations for so many channels, each with its numbers."""
    found = (find_normalization(name).of_channels(channels) for name in known(channels))
    return ", ".join(f"{each.name} ({each.numbers})" for each in found)


def _keep(
    recipe: Recipe,
    weights: dict[str, Tensor],
    checkpoint: Checkpoint,
    source: dict[str, object],
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
            "source": source,
            **definition_of(recipe.architecture),
        }

    return dataclasses.replace(MODELS.obtain(recipe, make), device=device)


def _follow_definition(model: TrainedModel) -> None:
    """Take the definition of a class of one's own as it is now; what was measured with another is void."""
    now = definition_of(model.recipe.architecture)
    before = model.record.get("definition", {})
    if now and now["definition"] != before:
        same = now["definition"].get("sha256") == before.get("sha256")
        _change(model, now if same else {**now, "accuracies": []})


def _change(model: TrainedModel, changes: dict[str, object]) -> None:
    """Change the record of a model, also where it is stored, unless that is another's store."""
    model.record.update(changes)
    if model.path == MODELS.path(model.recipe):
        MODELS.add(model.recipe, lambda stored: stored and {**stored.record, **changes})


def _on_accuracy(accuracy: float, checkpoint: Checkpoint, dataset: Dataset) -> list[str]:
    """Say where clean accuracy on the data that are there is not what it should be."""
    recorded, chance = checkpoint.accuracy, 1 / len(dataset.classes)
    if recorded is not None and abs(recorded - accuracy) > TOLERANCE:
        return [
            f"Accuracy on {len(dataset.test)} test images of {dataset.title} is {accuracy:.3f}, the file "
            f"records {recorded:.3f}: other images, another normalisation, or another order of classes? "
            f"{_to_check(checkpoint.source, dataset)}"
        ]
    if accuracy < 2 * chance:
        return [
            f"Accuracy on {dataset.title} is {accuracy:.3f}, chance is {chance:.3f}: is it normalised as in "
            f"training, and are the classes in the same order? {_to_check(checkpoint.source, dataset)}"
        ]
    return []


def _to_check(source: str, dataset: Dataset | None) -> str:
    name = dataset.name if dataset else "NAME"
    return f"`repsim check {source} --dataset {name}` tries what it may be."


def _is_open(checkpoint: Checkpoint, accuracy: float | None) -> bool:
    """Whether the weights fit architectures that compute something else, and nothing has told them apart."""
    recorded = checkpoint.accuracy
    agrees = recorded is not None and accuracy is not None and abs(recorded - accuracy) <= TOLERANCE
    return bool(checkpoint.alternatives) and not checkpoint.settled_by and not agrees


def _on_keys(
    checkpoint: Checkpoint, dataset: Dataset | None, accuracy: float | None, tried: Mapping
) -> tuple[bool, str]:
    """Whether the architecture is settled, and what is to be said where its keys do not settle it."""
    if not checkpoint.alternatives or checkpoint.settled_by:
        return True, ""
    taken, fit = checkpoint.architecture, checkpoint.left_open
    if not _is_open(checkpoint, accuracy):
        return True, f"{fit} {taken} has the accuracy that the file records."
    if tried:
        own, rest = tried[taken], {name: found for name, found in tried.items() if name != taken}
        best = max(rest, key=lambda name: rest[name][0] / rest[name][1], default=taken)
        reached, next_best = (f"{right / images:.3f}" for right, images in (own, tried[best]))
        if all(wilson(*own)[0] > wilson(*found)[1] for found in rest.values()):
            return True, f"{fit} On {own[1]} test images {taken} has {reached}, the next {next_best}."
        if wilson(*tried[best])[0] > wilson(*own)[1]:
            return False, (
                f"{fit} It was read as {taken}, but on {own[1]} test images {best} has an accuracy of "
                f"{next_best}, {taken} of {reached}: load it with architecture={best}. "
                f"{_to_check(checkpoint.source, dataset)}"
            )
    return False, (
        f"{fit} It was read as {taken}; architecture=… settles it, and "
        f"{_to_check(checkpoint.source, dataset)}"
    )
