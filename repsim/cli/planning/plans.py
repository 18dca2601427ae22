"""Plans of notebooks, told before they start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from repsim.cli.planning.making import inverted, stitched
from repsim.cli.planning.networks import (
    PendingModel,
    Values,
    is_explorer,
    networks,
    networks_beside,
    others,
    trained,
)
from repsim.cli.planning.work import Remarks, Work, cost, duration, memory_of, size
from repsim.data import Dataset, load_data
from repsim.support.devices import resolve_device
from repsim.training import zoo
from repsim.training.model_store import TrainedModel

PATHS = ("_file", "_files", "_folder")  # how parameters are called that name files
CHOSEN = ("train_size", "test_size", "image_size", "train_indices", "test_indices", "skip_unreadable")
ESTIMATED = """\
Times are estimates: forward and backward passes, counted, each as long as it is now on a few images on
this device. They count all iterations of all images (converged ones leave earlier), and fit stitches without
keeping what is fixed. They leave out measures of similarity, maps of layers, probes, adversarial images,
figures, that jobs run at once, and what an interrupted training has done. Memory is of images and of passes,
and leaves out what measures, maps and images under attack keep."""


@dataclass
class Plan(Remarks):
    """The plan of a notebook: what it would do, and what it lacks.

    Attributes
    ----------
    images
        Bytes of the images of its data sets, as they are kept.
    """

    notebook: str = ""
    device: str = "auto"
    work: list[Work] = field(default_factory=list)
    images: float = 0.0

    def seconds(self, work: Work) -> float:
        """The seconds that one kind of work takes."""
        return work.passes * cost(work.network, self.device).seconds if work.passes else 0.0

    @property
    def memory(self) -> float:
        """Bytes of images, and of the network that keeps most with a batch of its images."""
        busy = [each for each in self.work if each.network and each.batch]
        costs = [(cost(each.network, self.device), each.batch) for each in busy]
        # beside the weights: their gradients and the optimizer's moments
        return self.images + max((c.kept * batch + 4 * c.weights for c, batch in costs), default=0.0)

    @property
    def table(self) -> pd.DataFrame:
        """One row per kind of work: `data set`, `what`, `of`, `there`, `to make`, `time`."""
        rows = [(w.dataset, w.what, w.of, w.there, w.missing, duration(self.seconds(w))) for w in self.work]
        return pd.DataFrame(rows, columns=["data set", "what", "of", "there", "to make", "time"])

    def __str__(self) -> str:
        lines = [self.notebook]
        if self.work:
            lines += [f"    {line}" for line in self.table.to_string(index=False).splitlines()]
            target = resolve_device(self.device)
            total = duration(sum(map(self.seconds, self.work)))
            there = size(memory_of(target))
            lines.append(f"    time: {total}; memory: {size(self.memory)} of the {there} that {target} has")
            if self.memory > memory_of(target):
                lines.append("    more memory than there is: use fewer or smaller images, or smaller batches")
        lines += [f"    note: {note}" for note in dict.fromkeys(self.notes)]
        lines += [f"    missing: {text}" for text in dict.fromkeys(self.absent)]
        return "\n".join(lines)


def show(notebooks: Iterable[tuple[str, Values]]) -> int:
    """Print the plan of each notebook, given with the values of all its parameters.

    Returns
    -------
    int
        1 if anything that one needs is missing, else 0.
    """
    plans = [make_plan(name, values) for name, values in notebooks]
    print("\n\n".join(map(str, plans)), end=f"\n\n{ESTIMATED}\n")
    return int(any(plan.absent for plan in plans))


def make_plan(notebook: str, values: Values) -> Plan:
    """Plan what a notebook would do with the values of its parameters."""
    plan = Plan(notebook=notebook, device=str(values.get("device", "auto")))
    for name, value in values.items():
        if name.endswith(PATHS):
            files = [value] if isinstance(value, str) else value
            absent = [file for file in files if file and not Path(file).expanduser().exists()]
            plan.absent += [f"{file} ({name}) is not there." for file in absent]
    try:
        data = _datasets(values, plan)
        if not plan.absent:
            plan.work = list(_work(values, data, plan))
    except (ValueError, RuntimeError) as error:  # what the notebook itself would be stopped by
        plan.absent.append(str(error))
    return plan


def _datasets(values: Values, plan: Plan) -> dict[str, Dataset]:
    """The data sets that are named, as far as they are there; nothing is downloaded."""
    names = [values.get("dataset"), values.get("cross_dataset"), *values.get("others", [])]
    if is_explorer(values):  # the others are only offered
        names = [values["dataset"]]
    if values.get("ground_truth"):
        names += zoo.TWO_FEATURES.values()
    sizes = {name: values[name] for name in CHOSEN if name in values}
    found = {}
    for name in dict.fromkeys(filter(None, names)):
        options = sizes if name not in zoo.TWO_FEATURES.values() else {}
        try:
            data = load_data(name, root=values["data_root"], download=False, **options)
        except (ValueError, RuntimeError, OSError) as error:
            plan.absent.append(f"the data set {name}: {error}")
            continue
        found[name] = data
        plan.images += data.train.held_bytes + data.test.held_bytes
    return found


def _work(values: Values, data: Mapping[str, Dataset], plan: Plan) -> Iterator[Work]:
    first = values["dataset"]
    main = {name: networks(values, data, name, plan) for name in [first, *others(values)]}
    beside = networks_beside(values, data)
    if is_explorer(values):  # which trains none
        needed = [model for models in main.values() for model in models if isinstance(model, PendingModel)]
        plan.absent += [
            f"the network {model.name} is not stored: train it with notebook 00." for model in needed
        ]
        main = {name: [model for model in models if model not in needed] for name, models in main.items()}
    all_of: dict[str, dict[str, TrainedModel]] = {}  # some are in two sweeps
    for name, models in [*main.items(), *beside]:
        all_of.setdefault(name, {}).update({model.name: model for model in models})
    for name, models in all_of.items():
        yield from trained(data[name], models.values())
    if {"pairs", "iterations"} <= set(values):
        for name, models in main.items():
            published = values.get("inverted_folder", "") if name == first else ""
            files = values.get("pairs_files", []) if name == first else []
            yield from inverted(values, data[name], models, plan, files=files, published=published)
    if values.get("ground_truth"):
        features = [each for name, models in beside if name in zoo.TWO_FEATURES.values() for each in models]
        few = {**values, "layer": "penultimate", "stir_seeds": 0}
        few["pairs"] = min(values["pairs"], len(data["two_features"].test))
        yield from inverted(few, data["two_features"], features, plan)
    if {"alphas", "direct"} <= set(values):
        yield from stitched(values, data, main[first], dict(beside))
