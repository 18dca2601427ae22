"""Check what notebooks are given as far as that takes torch: names, options, layers, the device.

One table: type of a parameter (see `repsim.cli.kinds`) → what refuses a value. Nothing is downloaded, and no
network is trained or read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import torch

from repsim.activations import LayerGraph, trace
from repsim.activations.layer_graph import GROUPS
from repsim.attacks import make_attack, read_attacks
from repsim.cli.jobs import Job
from repsim.cli.parameters import RequestError
from repsim.data import Dataset, load_data
from repsim.data.loading import find_loader
from repsim.measures import find_measure
from repsim.models import build_model
from repsim.models.own import find_own
from repsim.models.variants import split_variants
from repsim.studies.inversion import InversionOptions
from repsim.studies.probing import ProbeOptions
from repsim.studies.stitching import StitchOptions
from repsim.support.devices import resolve_device
from repsim.training import zoo
from repsim.training.loading import ELSEWHERE, ImportOptions, is_foreign
from repsim.training.model_store import stored_model
from repsim.training.recipe import Recipe

Values = Mapping[str, object]
ANY_SHAPE = (3, 224, 224)  # of images, where only the name of an architecture is looked at


def check(jobs: Iterable[Job]) -> None:
    """Check all parameters of each notebook that is given any.

    Raises
    ------
    RequestError
        With all that is wrong.
    """
    wrong = [text for job in jobs if job.values for text in _wrong(job)]
    if wrong:
        raise RequestError("\n".join(dict.fromkeys(wrong)))


def _wrong(job: Job) -> Iterator[str]:
    values = job.notebook.defaults | job.values
    for name, parameter in job.notebook.parameters.items():
        for kind, part in parameter.parts(values[name]):
            if kind.name in CHECKS and (part or not kind.optional):
                try:
                    CHECKS[kind.name](part, values)
                except (ValueError, RuntimeError) as error:
                    yield f"parameter {name!r} of {job.name}: {error}"


def _architecture(name: str, values: Values) -> None:
    _build(name, ANY_SHAPE, 10, "meta")


@cache
def _build(name: str, shape: tuple[int, int, int], classes: int, device: str) -> torch.nn.Module:
    with torch.device(device):
        return build_model(name, shape, classes, [0.0] * shape[0], [1.0] * shape[0]).eval()


def _similarity(name: str, values: Values) -> None:
    if find_measure(name).orientation != "similarity":
        raise ValueError(f"claims are judged by a similarity, but {name} is a distance.")


def _judged_measures(names: list[str], values: Values) -> None:
    _similarity(names[0], values)
    for name in names[1:]:
        find_measure(name)


def _data_set(name: str, values: Values) -> None:
    path, _ = find_loader(name, Path())
    if ":" in name and not path.exists():
        raise ValueError(f"there is no {path}.")


def _checkpoints(chosen: Mapping[str, object], values: Values) -> None:
    for name, given in chosen.items():
        if not isinstance(given, Mapping | None):
            raise ValueError(f"options of {name} are a mapping, such as {{epsilon: 8/255}}, not {given!r}.")
        architecture = ImportOptions(**(given or {})).architecture
        if own := find_own(split_variants(architecture)[0]):
            own.target()
        if not is_foreign(name):
            stored_model(name, "cpu")
        elif not name.startswith(ELSEWHERE) and not Path(name).exists():
            raise ValueError(f"there is no file {name}.")


def _stitching(given: Mapping[str, object], values: Values) -> None:
    StitchOptions(**{**StitchOptions.read(given), "method": "standard", "epsilon": 0.0})


def _inversion(given: Mapping[str, object], values: Values) -> None:
    InversionOptions(**{"iterations": values["iterations"], **InversionOptions.read(given)})


# -- layers: these take the networks, without their weights -------------------------------------------------


def _layer(layer: str, values: Values) -> None:
    if layer not in GROUPS:
        for graph in _graphs(values):
            graph.select(layer)


def _layers(layers: list[str], values: Values) -> None:
    """Refuse what none of the notebook's networks has: some lists are of one of them only."""
    if any(layer not in GROUPS for layer in layers) or len(layers) > 1:
        refused = []
        for graph in _graphs(values):
            try:
                graph.select(layers)
            except ValueError as error:
                refused.append(error)
            else:
                return
        if refused:
            raise refused[0]


def _layer_choices(layers: list[str], values: Values) -> None:
    for layer in layers:
        _layers([layer], values)


def _graphs(values: Values) -> Iterator[LayerGraph]:
    """Those of the networks that are named, or of the committed zoo; of none where checkpoints are given."""
    if values.get("checkpoints"):
        return
    named = ("model", "cross_model", "architecture_a", "architecture_b")
    kinds = [values[name] for name in named if values.get(name)] or values.get("architectures")
    if not kinds:
        kinds = zoo.shared_architectures([values["dataset"], *values.get("others", [])])
    try:
        data = _data(values["dataset"], values["data_root"], values["image_size"])
    except RuntimeError:  # it is downloaded later
        return
    for kind in dict.fromkeys(kinds):
        yield trace(_build(kind, data.image_shape, len(data.classes), "cpu"), data.image_shape)


@cache
def _data(name: str, root: str, size: int) -> Dataset:
    return load_data(name, root=root, image_size=size, train_size=1, test_size=1, download=False)


CHECKS: dict[str, Callable[..., object]] = {
    "DataSet": _data_set,
    "Architecture": _architecture,
    "Measure": lambda name, values: find_measure(name),
    "Similarity": _similarity,
    "JudgedMeasures": _judged_measures,
    "Layer": _layer,
    "Layers": _layers,
    "LayerChoices": _layer_choices,
    "Attack": lambda name, values: make_attack(name, values["epsilon"], values["norm"]),
    "AttackKind": lambda chosen, values: read_attacks([chosen], values["epsilon"], values["norm"]),
    "TrainingOptions": lambda given, values: Recipe.options(given),
    "FittingOptions": _stitching,
    "InvertingOptions": _inversion,
    "ProbingOptions": lambda given, values: ProbeOptions.read(given),
    "Checkpoints": _checkpoints,
    "Device": lambda name, values: resolve_device(name),
}
