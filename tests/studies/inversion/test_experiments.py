"""The same pairs through many models: made at once or one by one, and what the tables of them say."""

import dataclasses
import json
import re
from functools import cache

import pytest
import torch

from repsim.data import load_data
from repsim.studies.inversion import InversionOptions, InversionRecipe, Pairs, find_inverted, obtain_inverted
from repsim.studies.inversion import store as inverted
from repsim.studies.inversion.experiments import curves, grid, obtain_sets, set_table
from repsim.support import paths
from repsim.training import zoo
from repsim.training.model_store import find

QUICK = InversionOptions(iterations=4, tolerance=0.4)
LABELS = ["architecture", "method", "norm", "epsilon", "seed"]


@cache
def trained(epsilon=0.0, seed=0, architecture="mlp"):
    (recipe,) = zoo.recipes(load_data("digits"), [architecture], [epsilon], [seed])
    return find(recipe, "cpu")


def three():
    return [trained(0.1), trained(), trained(seed=1, architecture="resnet_tiny")]


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.fixture
def pairs(tiny_data):
    return Pairs.draw(tiny_data, 6)


@pytest.fixture
def makings(monkeypatch):
    """How often a set was made in this process, counted in a list."""
    make, calls = inverted._make_parts, []
    monkeypatch.setattr(inverted, "_make_parts", lambda *given: calls.append(1) or make(*given))
    return calls


def test_one_set_for_each_model(tiny_data, pairs, makings):
    models = three()
    sets = obtain_sets(iter(models), tiny_data, pairs, QUICK, progress=False)
    assert list(sets) == [model.name for model in models]
    for model in models:
        recipe = InversionRecipe.of(model, pairs, options=QUICK)
        assert sets[model.name].recipe == recipe
        sets[model.name].check_model(model)
        again = obtain_inverted(recipe, model, tiny_data, pairs, progress=False)
        assert again.record == sets[model.name].record
    assert len({found.record["checksum"] for found in sets.values()}) == len(makings) == 3


def test_what_is_stored_is_read_unless_it_is_to_be_made_again(tiny_data, pairs, makings):
    models = three()
    first = obtain_sets(models[:1], tiny_data, pairs, QUICK, progress=False)
    obtain_sets(models[:2], tiny_data, pairs, QUICK, progress=False)
    assert len(makings) == 2
    again = obtain_sets(models[:2], tiny_data, pairs, QUICK, recompute=True, progress=False)
    assert len(makings) == 4
    assert again[models[0].name].record == first[models[0].name].record


def test_layer_start_and_options_are_those_of_the_sets(tiny_data, pairs):
    sets = obtain_sets([trained()], tiny_data, pairs, QUICK, layer="hidden.1", start="noise", progress=False)
    (found,) = sets.values()
    assert found.recipe == InversionRecipe.of(trained(), pairs, "hidden.1", QUICK, start="noise")
    assert found.seed_index.tolist() == [-1] * 6


def test_noise_has_no_ball_around_it(tiny_data, pairs):
    ball = dataclasses.replace(QUICK, epsilon=0.3)
    noise, free, seeded = (
        obtain_sets([trained()], tiny_data, pairs, options, start=start, progress=False)[trained().name]
        for options, start in ((ball, "noise"), (QUICK, "noise"), (ball, "seed"))
    )
    assert noise.recipe == free.recipe
    assert noise.recipe.options == QUICK
    assert seeded.recipe.options == ball


def test_batches_and_compiling_are_those_asked_for(tiny_data, pairs, monkeypatch):
    sizes, compiled, original = [], [], inverted.invert

    def counting(model, seeds, *given, **options):
        sizes.append(len(seeds))
        return original(model, seeds, *given, **options)

    monkeypatch.setattr(inverted, "invert", counting)
    monkeypatch.setattr(torch, "compile", lambda part, **_: compiled.append(part) or part)
    models = three()[:2]
    obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    assert sizes == [6, 6]
    assert compiled == []
    how = {"batch_size": 4, "compiled": True, "recompute": True}
    obtain_sets(models, tiny_data, pairs, QUICK, **how, progress=False)
    assert sizes[2:] == [4, 2, 4, 2]
    assert len(compiled) == 2


@pytest.mark.parametrize("jobs", [0, -2])
def test_fewer_than_one_at_the_same_time(tiny_data, pairs, jobs):
    with refused(f"jobs is how many sets are made at the same time, 1 or more, not {jobs}."):
        obtain_sets(three(), tiny_data, pairs, QUICK, jobs=jobs, progress=False)


@pytest.mark.slow
def test_two_processes_make_the_same_as_one(tiny_data, pairs, makings, monkeypatch, tmp_path):
    models = three()
    alone = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    images = {name: found.images for name, found in alone.items()}
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path / "other"))
    makings.clear()
    together = obtain_sets(models, tiny_data, pairs, QUICK, jobs=2, progress=False)
    assert makings == []  # all of them in the other processes
    assert list(together) == list(alone)
    for name, found in together.items():
        assert found.file.is_relative_to(tmp_path / "other")
        assert found.recipe == alone[name].recipe
        assert (found.images - images[name]).abs().max() <= 1 / 255
        assert torch.allclose(found.loss, alone[name].loss, rtol=1e-3)
        assert torch.equal(found.target_index, alone[name].target_index)


@pytest.mark.slow
def test_several_processes_make_again_what_is_stored_once(tiny_data, pairs, makings):
    models = three()[:2]
    first = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    expected = {name: found.record["loss"] for name, found in first.items()}
    for model in models:
        path = paths.inverted()[0] / "digits" / f"{first[model.name].recipe.address}.json"
        path.write_text(json.dumps({**first[model.name].record, "loss": 9.0}), encoding="utf-8")
    makings.clear()
    kept = obtain_sets(models, tiny_data, pairs, QUICK, jobs=2, progress=False)
    assert [found.record["loss"] for found in kept.values()] == [9.0, 9.0]
    again = obtain_sets(models, tiny_data, pairs, QUICK, recompute=True, jobs=2, progress=False)
    assert {name: found.record["loss"] for name, found in again.items()} == pytest.approx(expected, rel=1e-3)
    assert makings == []
    assert all(find_inverted(found.recipe).record == found.record for found in again.values())


# -- tables -------------------------------------------------------------------------------------------------


def test_curves(tiny_data, pairs):
    models = three()
    sets = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    table = curves(iter(models), sets)
    assert table.columns.tolist() == [*LABELS, "iteration", "loss", "converged"]
    assert table.index.tolist() == list(range(15))
    for number, model in enumerate(models):
        rows = table[5 * number : 5 * number + 5]
        assert (rows[LABELS] == list(model.labels.values())).all(axis=None)
        own = sets[model.name].curve
        for column in own.columns:
            assert rows[column].tolist() == own[column].tolist()
        assert rows["iteration"].tolist() == [0, 1, 2, 3, 4]
        assert rows["loss"].iloc[-1] == pytest.approx(sets[model.name].loss.mean().item(), rel=1e-5)


def test_curves_of_some_of_the_models(tiny_data, pairs):
    models = three()
    sets = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    table = curves([models[1]], sets)
    assert table["epsilon"].tolist() == [0] * 5
    assert table["loss"].tolist() == sets[models[1].name].curve["loss"].tolist()


def test_set_table(tiny_data, pairs):
    models = three()
    options = InversionOptions(iterations=25, tolerance=0.4)  # some converge, and not at once
    sets = obtain_sets(models, tiny_data, pairs, options, progress=False)
    table = set_table(iter(models), sets)
    assert table.columns.tolist() == [*LABELS, "start", "images", "loss", "converged", "iterations"]
    assert table["start"].tolist() == ["seed"] * 3
    assert table["images"].tolist() == [6, 6, 6]
    assert table["seed"].tolist() == [0, 0, 1]
    for row, model in zip(table.to_dict("records"), models, strict=True):
        found = sets[model.name]
        assert {label: row[label] for label in LABELS} == model.labels
        assert row["loss"] == pytest.approx(found.loss.mean().item())
        assert row["converged"] == pytest.approx((found.loss <= 0.4).float().mean().item(), abs=1e-6)
        assert row["iterations"] == pytest.approx(found.iterations.float().mean().item())
    assert table["converged"].max() > 0
    assert table["iterations"].min() < 25


def test_set_table_says_where_images_began(tiny_data, pairs):
    models = three()[:1]
    tables = [
        set_table(models, obtain_sets(models, tiny_data, pairs, QUICK, start=start, progress=False))
        for start in ("seed", "noise")
    ]
    assert [table["start"].item() for table in tables] == ["seed", "noise"]


# -- the first images ---------------------------------------------------------------------------------------


def test_a_grid_of_the_first_images(tiny_data, pairs):
    models = three()
    sets = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    rows, table = grid(iter(models), sets, pairs, tiny_data, 4)
    assert list(rows) == ["seed", "target", "mlp, ε = 0.1", "mlp, ε = 0", "resnet_tiny, ε = 0"]
    assert torch.equal(rows["seed"], tiny_data.test.images[pairs.seed_index[:4]])
    assert torch.equal(rows["target"], tiny_data.test.images[pairs.target_index[:4]])
    for images, model in zip(list(rows.values())[2:], models, strict=True):
        assert torch.equal(images, sets[model.name].images[:4])
    assert table.columns.tolist() == [*LABELS, "pair", "seed_class", "target_class", "loss"]
    assert table["pair"].tolist() == [0, 1, 2, 3] * 3
    described = pairs.table(tiny_data)[:4]
    for column in ("seed_class", "target_class"):
        assert table[column].tolist() == described[column].tolist() * 3
    for number, model in enumerate(models):
        own = table[4 * number : 4 * number + 4]
        assert (own[LABELS] == list(model.labels.values())).all(axis=None)
        assert own["loss"].tolist() == pytest.approx(sets[model.name].loss[:4].tolist())


def test_a_grid_calls_models_as_it_is_told_to(tiny_data, pairs):
    models = three()[:2]
    sets = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    rows, _ = grid(models, sets, pairs, tiny_data, 1, ["robust", "standard"])
    assert list(rows) == ["seed", "target", "robust", "standard"]
    assert torch.equal(rows["robust"], sets[models[0].name].images[:1])


def test_a_grid_has_a_row_for_each_model(tiny_data, pairs):
    models = [trained(), trained(seed=1)]
    sets = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    rows, _ = grid(models, sets, pairs, tiny_data, 2)
    assert list(rows) == ["seed", "target", "mlp, ε = 0, seed 0", "mlp, ε = 0, seed 1"]


def test_a_grid_of_other_pairs_or_another_model(tiny_data, pairs):
    models = three()[:2]
    sets = obtain_sets(models, tiny_data, pairs, QUICK, progress=False)
    other = Pairs.draw(tiny_data, 6, seed=1)
    one, two = (sets[model.name].recipe for model in models)
    message = (
        f"the inverted images {one.address} of {one.model} are of pairs {pairs.address}, not of "
        f"{other.address}."
    )
    with refused(message):
        grid(models, sets, other, tiny_data, 4)
    message = (
        f"the inverted images {two.address} are of {two.model} (weights {two.weights}…), not of {one.model} "
        f"(weights {one.weights}…)."
    )
    with refused(message):
        grid(models, {one.model: sets[two.model], two.model: sets[two.model]}, pairs, tiny_data, 4)
