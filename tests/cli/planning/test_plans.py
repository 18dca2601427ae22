"""A plan says what a notebook would make and what it lacks, and makes nothing."""

import argparse
import dataclasses
import functools
from pathlib import Path

import nbformat
import pytest
import torch
from PIL import Image

from repsim.cli import run, scheduling
from repsim.cli.parameters import Notebook
from repsim.cli.planning import costs, make_plan, pending, plans
from repsim.data import load_data
from repsim.studies.inversion import InversionOptions, Pairs, experiments
from repsim.studies.inversion import study as inversion_study
from repsim.support import paths
from repsim.training import Recipe, study, zoo
from repsim.training.model_store import obtain_all

FOLDER = Path(__file__).parents[3] / "notebooks"
NOTEBOOKS = {path.stem[:2]: path for path in sorted(FOLDER.glob("[0-9]*.ipynb"))}
read = functools.cache(Notebook.read)
load = functools.cache(load_data)
TINY = {"train_size": "40", "test_size": "20", "training": "{epochs: 1}"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Data sets are loaded once for all tests, and no network is timed."""
    for module in (study, inversion_study, zoo):
        monkeypatch.setattr(module, "load_data", load)
    monkeypatch.setattr(plans, "cost", lambda network, device: costs.Cost(0.001, 1000.0, 0.0))


def plan(number, **given):
    notebook = read(NOTEBOOKS[number])
    return make_plan(notebook, notebook.defaults | notebook.values(given))


def counts(found, what):
    """There, and to make, of each architecture and data set."""
    return {(each.dataset, each.of): (each.there, each.missing) for each in found.work if each.what == what}


def total(found, what):
    """There, and to make, in all."""
    return tuple(map(sum, zip(*counts(found, what).values(), strict=True)))


def seconds(found, what):
    return sum(found.seconds(each) for each in found.work if each.what == what)


# with what is committed


@pytest.mark.matrix("00", "06")
@pytest.mark.parametrize("number", NOTEBOOKS)
def test_nothing_is_to_be_made_for_the_defaults_and_nothing_is_written(number, tmp_path):
    found = plan(number)
    assert found.absent == []
    assert found.work
    assert [each for each in found.work if each.missing or not each.there] == []
    assert sum(map(found.seconds, found.work)) == 0
    assert list(tmp_path.iterdir()) == []


def test_all_that_the_defaults_ask_for_is_counted():
    assert counts(plan("00"), "networks") == {("digits", "resnet_tiny"): (20, 0)}
    swept = {"_w4", "_w16", "_d14", "_deep"}
    assert counts(plan("01"), "networks") == {("digits", "resnet_tiny"): (20, 0)} | {
        ("digits", f"resnet_tiny{kind}"): (6, 0) for kind in swept
    }
    inverted = plan("03")
    kinds = read(NOTEBOOKS["03"]).defaults["architectures"]
    # 2 seeds × 4 ε, and 1 seed × 4 ε from noise; 3 kinds of features × 2 ε × 3 seeds
    expected = {("digits", kind): (8 + 4, 0) for kind in kinds} | {("two_features", "resnet_tiny"): (18, 0)}
    assert counts(inverted, "inverted sets") == expected
    both = counts(plan("04"), "networks")
    assert {dataset for dataset, _ in both} == {"digits", "shapes"}


# what is missing is counted exactly


def test_networks_of_another_epsilon():
    found = plan("00", epsilons='["0", "0.1", "0.3"]')
    assert counts(found, "networks") == {("digits", "resnet_tiny"): (10, 5)}
    found = plan("00", retrain="true")
    assert counts(found, "networks") == {("digits", "resnet_tiny"): (0, 20)}
    found = plan("01", epsilon="0.3", epsilons='["0", "0.3"]', sweep_seeds="2")
    assert counts(found, "networks")["digits", "resnet_tiny"] == (5, 5)
    assert counts(found, "networks")["digits", "resnet_tiny_w4"] == (2, 2)
    found = plan("04", others="[]", architectures="[vgg_tiny]", epsilons='["0", "0.07"]', seeds="4")
    assert counts(found, "networks") == {("digits", "vgg_tiny"): (3, 5)}
    assert counts(found, "inverted sets") == {("digits", "vgg_tiny"): (3, 5)}


def test_inverted_sets_of_other_options():
    found = plan("03", iterations="301", seeds="1", ground_truth="false")
    assert total(found, "networks") == (20, 0)
    assert total(found, "inverted sets") == (0, 40)
    assert total(plan("03", recompute="true", ground_truth="false"), "inverted sets") == (0, 60)


def test_stitches_of_other_donors():
    found = plan("02", seeds="2", epsilon="0.15")
    assert counts(found, "networks") == {
        ("digits", "resnet_tiny"): (2, 2),
        ("digits", "resnet_tiny_deep"): (1, 1),
        ("shapes", "resnet_tiny"): (4, 0),
    }
    layers, mixed = 3, 4
    same = 5 * (mixed + 4) * layers  # 3 α and 2 matches
    fooled = 3 * mixed * layers  # `stitched` is α = 1
    ranks, starts, tasks = 4 * mixed * layers, 4 * mixed, 2 * 4 * layers
    assert counts(found, "stitches") == {
        ("digits", "resnet_tiny"): (0, same + fooled + ranks + starts + tasks),
        ("digits", "resnet_tiny_deep"): (0, 2 * 9 * 9),
        ("shapes", "resnet_tiny"): (tasks // 2, tasks // 2),  # between the standard ones
    }


@pytest.mark.slow
def test_a_fit_of_other_settings_and_a_measurement_of_another_attack():
    quick = {"seeds": "5", "cross_model": "", "cross_dataset": "", "alphas": "[0.0]", "attacked": "[]"}
    quick |= {"ranks": "[]", "direct": "[orthogonal]"}
    stored = plan("02", **quick)
    assert total(stored, "stitches")[1] == 0
    measured = plan("02", **quick, pgd_steps="21")
    fitted = plan("02", **quick, fitting="{epochs: 21}")
    assert total(measured, "stitches") == (0, sum(total(stored, "stitches")))
    assert 0 < seconds(measured, "stitches") < seconds(fitted, "stitches")


# what is made is there from then on


def test_what_was_made_is_there():
    given = {**TINY, "architectures": "[mlp]", "epsilons": '["0", "0.1"]', "seeds": "1", "pairs": "10"}
    given |= {"iterations": "2", "ground_truth": "false"}
    before = plan("03", **given)
    assert (total(before, "networks"), total(before, "inverted sets")) == ((0, 2), (0, 4))
    data = load_data("digits", train_size=40, test_size=20)
    recipes = zoo.recipes(data, ["mlp"], [0.0, 0.1], [0], epochs=1)
    models = obtain_all(recipes, data, device="cpu", progress=False)
    between = plan("03", **given)
    assert (total(between, "networks"), total(between, "inverted sets")) == ((2, 0), (0, 4))
    pairs = Pairs.draw(data, 10)
    experiments.obtain_sets(models, data, pairs, InversionOptions(iterations=2), progress=False)
    after = plan("03", **given)
    assert (total(after, "networks"), total(after, "inverted sets")) == ((2, 0), (2, 2))
    assert total(plan("03", **given, stir_seeds="0"), "inverted sets") == (2, 0)


# estimates


def training_time(**given):
    texts = given.pop("training", "[]")
    return seconds(plan("00", epsilons='["0.3"]', seeds=given.pop("seeds", "1"), training=texts), "networks")


def test_training_takes_longer_with_more_of_anything():
    least = training_time(training="{epochs: 2, attack_steps: 2}")
    longer = [
        training_time(training="{epochs: 4, attack_steps: 2}"),
        training_time(training="{epochs: 2, attack_steps: 4}"),
        training_time(training="{epochs: 2, attack_steps: 2}", seeds="2"),
    ]
    assert all(each > least > 0 for each in longer)
    images, steps = 1297, 20  # of digits' training images; of the attack on its 500 test images
    assert least == pytest.approx(0.001 * (2 * images * (1 + 2) + 500 * (steps + 1 / 3)))


def inversion_time(**given):
    given = {"seeds": "1", "ground_truth": "false", "stir_seeds": "0", "iterations": "10", **given}
    return seconds(plan("03", **given), "inverted sets")


def test_inversion_takes_longer_with_more_of_anything():
    least = inversion_time(pairs="100")
    assert least == pytest.approx(0.001 * 20 * 100 * (10 + 1 / 3))
    assert inversion_time(pairs="200") == pytest.approx(2 * least)
    assert inversion_time(pairs="100", iterations="20") > 1.9 * least
    assert inversion_time(pairs="100", stir_seeds="1") == pytest.approx(2 * least)


def test_memory_is_of_images_and_of_the_largest_batch():
    found = plan("00")
    assert found.memory == found.images == 4 * (1297 + 500) * 256
    assert plan("00", train_size="100").images == 4 * (100 + 500) * 256
    found = plan("03", iterations="10", batch_size="200")
    assert found.memory - found.images == 1000 * 200
    # after training, 500 images are attacked together
    assert (lambda p: p.memory - p.images)(plan("00", epsilons='["0.3"]')) == 1000 * 500


# what is missing is named, and nothing is fetched


def test_a_data_set_that_is_not_there(tmp_path):
    found = plan("02", dataset="cifar10", data_root=str(tmp_path), cross_dataset="nothing")
    assert found.work == []
    assert found.absent[0].startswith("the data set cifar10: ")
    assert str(tmp_path) in found.absent[0]
    assert found.absent[1].startswith("the data set nothing: unknown data set 'nothing'")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    found = plan("01", dataset=f"folder:{tmp_path / 'photos'}")
    assert found.absent[0].endswith(f"{tmp_path / 'photos'} is not a folder.")


def test_checkpoints_that_are_not_there(tmp_path):
    file = tmp_path / "none.pt"
    found = plan("00", checkpoints=f"{{{file}: {{epsilon: 0}}, robust-000000000000}}")
    assert found.absent == [
        f"the checkpoint {name}: there is no such file, and no stored network of that name."
        for name in (file, "robust-000000000000")
    ]


@pytest.fixture
def photos(tmp_path):
    """A folder of eight small colour pictures of two classes, by its name as a data set."""
    for folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(2):
            picture = Image.new("RGB", (32, 32), (100 * number, 50, 200))
            picture.save(tmp_path / "photos" / folder / f"{number}.png")
    return f"folder:{tmp_path / 'photos'}"


def test_published_checkpoints_are_fetched_later(photos):
    hub = "hf:madrylab/robust-imagenet-models"
    known, other, unknown = (
        f"{hub}/resnet18_l2_eps3.ckpt",
        "torchvision:resnet50",
        f"{hub}/unknown_l2_eps3.ckpt",
    )
    found = plan("00", checkpoints=f"{{{known}, {other}: {{epsilon: 0}}, {unknown}}}", dataset=photos)
    assert found.absent == []
    assert counts(found, "networks") == {
        ("photos", "torchvision:resnet18"): (1, 0),
        ("photos", "torchvision:resnet50"): (1, 0),
    }
    assert found.notes == [
        f"{hub}/resnet18_l2_eps3.ckpt is fetched when the notebook runs, unless it is kept already.",
        "torchvision:resnet50 is fetched when the notebook runs, unless it is kept already.",
        f"{hub}/unknown_l2_eps3.ckpt is fetched when the notebook runs, unless it is kept already.",
        f"{hub}/unknown_l2_eps3.ckpt: of which architecture is not known before; it is left out here.",
    ]


def test_stored_networks_as_checkpoints():
    data = load("digits")
    names = [recipe.name for recipe in zoo.recipes(data, ["mlp"], [0.0, 0.1], [0])]
    found = plan("03", checkpoints=f"{{{', '.join(names)}}}", ground_truth="false")
    assert counts(found, "networks") == {("digits", "mlp"): (2, 0)}
    assert counts(found, "inverted sets") == {("digits", "mlp"): (4, 0)}
    assert found.absent == []


def test_the_explorer_trains_nothing():
    found = plan("07", trained_b="0.3")
    (recipe,) = zoo.recipes(load("digits"), ["resnet_tiny"], [0.3], [0])
    assert counts(found, "networks") == {("digits", "resnet_tiny"): (1, 0)}
    assert found.absent == [f"the network {recipe.name} is not stored: train it with notebook 00."]


def test_a_notebook_without_a_study_says_so(tmp_path):
    path = tmp_path / "mine.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in ("%matplotlib inline", "import repsim")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    found = make_plan(Notebook.read(path), {})
    assert (found.work, found.absent) == ([], [])
    assert found.notes == ["it imports no study of repsim, which would say what it needs."]


def test_a_study_takes_the_parameters_that_are_called_as_its_fields():
    for number, path in NOTEBOOKS.items():
        kind = plans.study_of(read(path))
        fields = {each.name for each in dataclasses.fields(kind) if each.init} - {"dry", "retrain", "title"}
        assert fields - {"method", "recompute", "compiled", "batch_size"} <= set(read(path).parameters), (
            number
        )


def test_files_that_parameters_name(tmp_path):
    (tmp_path / "there.csv").touch()
    values = read(NOTEBOOKS["00"]).defaults
    values |= {
        "other_file": str(tmp_path / "none.csv"),
        "pairs_files": [str(tmp_path / "there.csv"), "no.csv"],
    }
    assert make_plan(read(NOTEBOOKS["00"]), values).absent == [
        f"{tmp_path / 'none.csv'} (other_file) is not there.",
        "no.csv (pairs_files) is not there.",
    ]


def test_what_would_stop_the_notebook_is_said_before():
    assert plan("03", pairs="501").absent == [
        "digits has 500 test images, so that pairs can be 1 to 500, not 501."
    ]
    assert plan("00", model="resnet_tinny").absent[0].startswith("unknown model 'resnet_tinny'")
    assert plan("00", training="{epoch: 3}").absent[0].startswith("unknown training option 'epoch'")


# the command


def command(*arguments):
    parser = argparse.ArgumentParser(prog="repsim run")
    run.add_arguments(parser)
    return run.main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def _never_run(monkeypatch):
    monkeypatch.setattr(scheduling, "run", lambda *_: pytest.fail("it ran"))


@pytest.mark.usefixtures("_never_run")
def test_the_command_prints_plans_and_runs_nothing(capsys, tmp_path):
    assert command(NOTEBOOKS["00"], NOTEBOOKS["06"], "--plan", "-p", "seeds", "2") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("00_models\n")
    assert "\n\n06_probes\n" in printed
    assert printed.endswith(f"\n{plans.ESTIMATED}\n")
    assert "time: –; memory: 0.0 GB of the " in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.matrix
@pytest.mark.usefixtures("_never_run")
@pytest.mark.parametrize("folder", ["cifar10", "imagenet"])
def test_the_papers_settings_say_what_they_lack(capsys, tmp_path, folder):
    file = FOLDER / "parameters" / folder / "03_inversion_similarity.yaml"
    arguments = ["--plan", "-f", file, "-p", "data_root", tmp_path]
    assert command(NOTEBOOKS["03"], *arguments) == 1
    printed = capsys.readouterr().out
    assert f"    missing: the data set {folder}: " in printed
    assert str(tmp_path) in printed
    assert command(NOTEBOOKS["03"], "--plan", "-f", tmp_path / "none.yaml") == 1
    assert capsys.readouterr().out == f"missing: the parameter file {tmp_path / 'none.yaml'}\n"


@pytest.mark.usefixtures("_never_run")
def test_a_request_that_cannot_be_understood_is_no_plan(capsys):
    assert command(NOTEBOOKS["00"], "--plan", "-p", "sedes", "2") == 2
    assert "unknown parameter 'sedes'; did you mean 'seeds'?" in capsys.readouterr().err


def test_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr(plans, "memory_of", lambda device: 10.0)
    assert "more memory than there is" in str(plan("00"))


def test_an_unmade_network_has_made_nothing(tiny_data):
    (recipe,) = zoo.recipes(tiny_data, ["mlp"], [0.0], [0])
    model = pending.PendingModel.of(recipe, tiny_data)
    assert model.name == recipe.name
    assert model.graph.select("penultimate")
    assert not model.network.training
    with torch.no_grad():
        assert model.network(tiny_data.test.images[:2]).shape == (2, 10)
    assert paths.data().exists() is False
    assert Recipe.on(tiny_data, "mlp") != recipe
