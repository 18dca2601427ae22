"""The papers' settings in notebooks/parameters: each file fits its notebook, however it is given."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from repsim.activations import trace
from repsim.attacks import Attack, parse_epsilon, read_attacks
from repsim.cli.parameters import Notebook, read_file
from repsim.data import Split
from repsim.measures import find_measure
from repsim.models import build_model, is_architecture
from repsim.studies.inversion import InversionOptions
from repsim.studies.probing import ProbeOptions
from repsim.studies.stitching import StitchOptions, experiments
from repsim.support.options import read_options
from repsim.training import Recipe, zoo
from repsim.training.loading import ImportOptions

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
FILES = sorted((Path(__file__).parents[2] / "notebooks" / "parameters").glob("*/*.yaml"))
SIDES = {"cifar10": 32, "imagenet": 224}
each_file = pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.stem}" for path in FILES])


def notebook_of(path):
    (found,) = (each for each in NOTEBOOKS if each.stem == path.stem)
    return Notebook.read(found)


def values_of(path):
    """All parameters of the notebook, with those of the file."""
    notebook = notebook_of(path)
    return notebook.defaults | notebook.values(read_file(path))


@pytest.fixture
def like(tiny_data):
    """A data set of the shape of another, by its name; two black images of each split."""

    def of(name, side):
        split = Split(torch.zeros(2, 3, side, side), torch.tensor([0, 1]))
        return dataclasses.replace(
            tiny_data, name=name, train=split, test=split, mean=(0.5,) * 3, std=(1.0,) * 3
        )

    return of


def test_each_notebook_has_one_for_each_data_set():
    expected = [f"{folder}/{path.stem}" for folder in sorted(SIDES) for path in NOTEBOOKS]
    assert [f"{path.parent.name}/{path.stem}" for path in FILES] == expected


@each_file
def test_it_sets_what_the_notebook_declares_and_nothing_else(path):
    given, notebook = read_file(path), notebook_of(path)
    assert set(given) <= set(notebook.parameters)
    assert values_of(path)["dataset"] == path.parent.name
    assert path.read_text(encoding="utf-8").startswith("# ")  # where the numbers come from


@each_file
def test_papermill_gives_the_same_values_of_the_declared_types(path):
    ours = notebook_of(path).values(read_file(path))
    theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert theirs == ours
    for name, value in theirs.items():
        parts = value if isinstance(value, list) else [value]
        expected = ours[name] if isinstance(value, list) else [ours[name]]
        assert [type(part) for part in parts] == [type(part) for part in expected], name


@each_file
def test_what_it_asks_for_can_be_made(path, like):
    values = values_of(path)
    data = like(values["dataset"], values["image_size"] or SIDES[path.parent.name])
    kinds = [*values.get("architectures", []), *values.get("widths", []), *values.get("depths", [])]
    kinds += [
        values[name] for name in ("architecture_a", "architecture_b", "cross_model") if values.get(name)
    ]
    kinds += [] if values["checkpoints"] or "model" not in values else [values["model"]]
    assert kinds or values["checkpoints"]
    assert [kind for kind in kinds if not is_architecture(kind)] == []
    levels = [parse_epsilon(each) for each in [*values.get("epsilons", []), values.get("epsilon") or "0"]]
    options = {name: values[name] for name in ("method", "norm") if name in values}
    recipes = zoo.recipes(data, kinds, levels, range(2), **options, **Recipe.options(values["training"]))
    assert len({recipe.address for recipe in recipes}) == len(set(kinds)) * len(set(levels)) * 2
    for level in levels:
        Attack(level, values["norm"])
    for given in values["checkpoints"].values():
        assert "epsilon" in read_options(ImportOptions, given)
    read_attacks(values.get("attack_kinds", []), levels[-1], values["norm"])
    for measure in [
        *values.get("measures", []),
        *filter(None, [values.get("judged"), values.get("measure")]),
    ]:
        find_measure(measure)
    InversionOptions(**InversionOptions.read(values.get("inversion", {})))
    for kind in values.get("kinds", []):
        ProbeOptions(**{"kind": kind, **ProbeOptions.read(values["probes"])})
    if "fitting" in values:
        settings = experiments.settings_for(data, **StitchOptions.read(values["fitting"]))
        attack = {"method": values["method"], "norm": values["norm"], "epsilon": levels[-1]}
        assert experiments.fitting_methods(settings, values["alphas"], values["direct"], **attack)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("folder", "stem", "architecture"),
    [
        ("cifar10", "02_stitching", "resnet18"),
        ("imagenet", "02_stitching", "torchvision:resnet50"),
        ("cifar10", "07_explorer", "resnet18"),
        ("imagenet", "07_explorer", "torchvision:resnet18"),
    ],
)
def test_the_layers_that_it_names_are_there(folder, stem, architecture):
    (path,) = (each for each in FILES if (each.parent.name, each.stem) == (folder, stem))
    values, side = values_of(path), SIDES[folder]
    graph = trace(
        build_model(architecture, (3, side, side), 10, [0.0] * 3, [1.0] * 3).eval(), (3, side, side)
    )
    named = [values[name] for name in ("layer_a", "layer_b") if name in values]
    chosen = [layer for layer in named or values["layers"] if layer != "blocks"]
    assert set(graph.select(chosen)) == set(chosen)
