"""Plans of notebooks, told before they start: their studies say what they need."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from repsim.cli.parameters import Notebook
from repsim.cli.planning.costs import (
    FORWARD,
    Network,
    cost,
    duration,
    memory_of,
    size,
    stitch_passes,
    training_passes,
)
from repsim.cli.planning.pending import PendingModel, Remarks, find_networks
from repsim.data import Dataset
from repsim.studies.inversion import SetBatch, find_inverted
from repsim.studies.inversion.published import published_file
from repsim.studies.stitching import Batch, StitchRecipe, find_stitch
from repsim.support.devices import resolve_device
from repsim.training.model_store import TrainedModel
from repsim.training.study import Study

Values = Mapping[str, object]
PATHS = ("_file", "_files", "_folder")  # how parameters are called that name files
ATTACKED_TOGETHER = 500  # test images
ESTIMATED = """\
Times are estimates: forward and backward passes, counted, each as long as it is now on a few images on
this device. They count all iterations of all images (converged ones leave earlier), and fit stitches without
keeping what is fixed. They leave out measures of similarity, maps of layers, probes, adversarial images,
figures, that jobs run at once, and what an interrupted training has done. Memory is of images and of passes,
and leaves out what measures, maps and images under attack keep."""


@dataclass(frozen=True)
class Work:
    """Things of one kind: how many there are, and how many are to be made.

    Attributes
    ----------
    passes
        Forward and backward passes of one image through `network`, all in all.
    batch
        Images that are in the network together.
    """

    dataset: str
    what: str
    of: str
    there: int
    missing: int
    network: Network | None = None
    passes: float = 0.0
    batch: int = 0


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


def show(notebooks: Iterable[tuple[Notebook, Values]]) -> int:
    """Print the plan of each notebook, given with the values of all its parameters.

    Returns
    -------
    int
        1 if anything that one needs is missing, else 0.
    """
    plans = [make_plan(notebook, values) for notebook, values in notebooks]
    print("\n\n".join(map(str, plans)), end=f"\n\n{ESTIMATED}\n")
    return int(any(plan.absent for plan in plans))


def make_plan(notebook: Notebook, values: Values) -> Plan:
    """Look for everything that a notebook needs with the values of its parameters."""
    plan = Plan(notebook=notebook.path.stem, device=str(values.get("device", "auto")))
    for name, value in values.items():
        if name.endswith(PATHS):
            files = [value] if isinstance(value, str) else value
            absent = [file for file in files if file and not Path(file).expanduser().exists()]
            plan.absent += [f"{file} ({name}) is not there." for file in absent]
    kind = study_of(notebook)
    if kind is None:
        plan.notes.append("it imports no study of repsim, which would say what it needs.")
        return plan
    try:
        study = kind.of({**values, "dry": True})
        _load(study, plan)
        if not plan.absent:
            plan.work = list(_work(study, plan))
    except (ValueError, RuntimeError) as error:  # what the notebook itself would be stopped by
        plan.absent.append(str(error))
    return plan


def study_of(notebook: Notebook) -> type[Study] | None:
    """Find the study that a notebook imports; None where it imports none."""
    for cell in notebook.content["cells"]:
        if cell["cell_type"] != "code":
            continue
        try:
            tree = ast.parse("".join(cell["source"]))
        except SyntaxError:  # magics
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("repsim."):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    found = getattr(module, alias.name, None)
                    if isinstance(found, type) and issubclass(found, Study):
                        return found
    return None


def _load(study: Study, plan: Plan) -> None:
    """Load the data sets as far as they are there."""
    for name in dict.fromkeys(study.datasets):
        try:
            data = study.load(name)
        except (ValueError, RuntimeError, OSError) as error:
            plan.absent.append(f"the data set {name}: {error}")
        else:
            plan.images += data.train.held_bytes + data.test.held_bytes


def _work(study: Study, plan: Plan) -> Iterator[Work]:
    sets = study.networks()
    main = {name: find_networks(each, plan, retrain=study.retrain) for name, each in sets.items()}
    sets_beside = study.networks_beside(main[study.dataset])
    beside = {name: find_networks(each, plan) for name, each in sets_beside.items()}
    if not study.trains:
        needed = [model for models in main.values() for model in models if isinstance(model, PendingModel)]
        plan.absent += [
            f"the network {model.name} is not stored: train it with notebook 00." for model in needed
        ]
        main = {name: [model for model in models if model not in needed] for name, models in main.items()}
    all_of: dict[str, tuple[Dataset, dict[str, TrainedModel]]] = {}  # some are in two sweeps
    for each, models in [
        *zip(sets.values(), main.values(), strict=True),
        *zip(sets_beside.values(), beside.values(), strict=True),
    ]:
        all_of.setdefault(each.dataset.slug, (each.dataset, {}))[1].update({m.name: m for m in models})
    for data, models in all_of.values():
        yield from _trained(data, models.values())
    yield from _inverted(study.inverted_sets(main, beside).values(), study, plan)
    models = main[study.dataset]
    batches = [*study.stitches(models).values(), *study.stitches_beside(models, beside).values()]
    yield from _stitched(batches, study, [*models, *(each for kind in beside.values() for each in kind)])


def _by_architecture(models: Iterable[TrainedModel]) -> dict[str, list[TrainedModel]]:
    """Architecture → its networks."""
    found: dict[str, list[TrainedModel]] = {}
    for model in models:
        found.setdefault(model.recipe.architecture, []).append(model)
    return found


def _trained(data: Dataset, models: Iterable[TrainedModel]) -> Iterator[Work]:
    """Count networks of one data set that are there, and time the training of the others."""
    for kind, of_kind in _by_architecture(models).items():
        missing = [m for m in of_kind if isinstance(m, PendingModel) and m.recipe.method != "imported"]
        passes = sum(training_passes(model.recipe, data) for model in missing)
        # after training, some test images are attacked together
        tested = [min(ATTACKED_TOGETHER, len(data.test)) for model in missing if model.recipe.epsilon]
        batch = max([*(model.recipe.batch_size for model in missing), *tested], default=0)
        counts = len(of_kind) - len(missing), len(missing)
        network = Network.of(of_kind[0], missing[0].recipe.precision if missing else "float32")
        yield Work(data.slug, "networks", kind, *counts, network, passes, batch)


def _inverted(batches: Iterable[SetBatch], study: Study, remarks: Remarks) -> Iterator[Work]:
    """Count inverted sets by data set and architecture; those of others are read."""
    found: dict[tuple[str, str], Work] = {}
    for batch in batches:
        if batch.published:
            remarks.absent += _unpublished(batch)
            continue
        for model, recipe in zip(batch.models, batch.recipes, strict=True):
            kind = (batch.dataset.slug, model.recipe.architecture)
            work = found.setdefault(kind, Work(kind[0], "inverted sets", kind[1], 0, 0, Network.of(model)))
            if not study.recompute and find_inverted(recipe) is not None:
                found[kind] = dataclasses.replace(work, there=work.there + 1)
                continue
            passes = len(batch.pairs) * (batch.options.iterations + FORWARD)
            found[kind] = dataclasses.replace(
                work,
                missing=work.missing + 1,
                network=Network.of(model, batch.options.precision),
                passes=work.passes + passes,
                batch=min(len(batch.pairs), study.batch_size),
            )
    yield from found.values()


def _unpublished(batch: SetBatch) -> Iterator[str]:
    """The files of images that others have made that are not there."""
    for model in batch.models:
        try:
            published_file(batch.published, model)
        except ValueError as error:
            yield str(error)


def _stitched(batches: Iterable[Batch], study: Study, models: Sequence[TrainedModel]) -> Iterator[Work]:
    """Count stitches by the architecture of the end and the data set on which they are fitted."""
    wanted: dict[tuple, tuple[StitchRecipe, Batch, set[int]]] = {}
    for batch in batches:
        for recipe in batch.recipes:
            key = (recipe.address, *batch.evaluation.key.values())
            wanted.setdefault(key, (recipe, batch, set()))[2].update({0, *batch.truncations})
    counts: dict[tuple[str, str], list[float]] = {}
    for recipe, batch, ranks in wanted.values():
        evaluation = batch.evaluation
        stored = None if study.recompute else find_stitch(recipe)
        unmeasured = [rank for rank in ranks if stored is None or not stored.measured(evaluation, rank)]
        fitting = 0.0 if stored else stitch_passes(recipe.options, len(evaluation.fitted_on.train))
        measuring = len(evaluation.split) * (evaluation.attack.steps + FORWARD) * len(unmeasured)
        end = recipe.end.rpartition("-")[0]
        found = counts.setdefault((recipe.dataset, end), [0, 0, 0.0])
        found[bool(unmeasured)] += 1
        found[2] += fitting + measuring
    for (slug, end), (there, missing, passes) in counts.items():
        of = next(model for model in models if model.name.startswith(f"{end}-"))
        together = ATTACKED_TOGETHER if missing else 0
        yield Work(slug, "stitches", of.recipe.architecture, there, missing, Network.of(of), passes, together)
