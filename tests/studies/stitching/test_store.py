"""Stitches are saved before they are measured, rebuilt exactly, packed, and never read when damaged."""

import dataclasses
import gzip
import json
import pickle
import re
from functools import cache

import pytest
import torch

from repsim.attacks import Attack
from repsim.data import load_data
from repsim.studies.stitching import Evaluation, StitchOptions, StitchRecipe, find_stitch, obtain_stitch
from repsim.studies.stitching import store as stitches
from repsim.studies.stitching.store import pack, stored_stitches
from repsim.support import paths
from repsim.support.artifacts import DamagedArtifact, address
from repsim.training import Recipe, zoo
from repsim.training.model_store import find, obtain, stored_model

BLOCK = "layer2.0.relu2"
QUICK = {"epochs": 2, "batch_size": 50, "learning_rate": 0.03}
WAYS = {
    "standard": QUICK,
    "low rank": {**QUICK, "rank": 3},
    "mask": {**QUICK, "mask": "semi_match"},
    "update_batchnorm": {**QUICK, "update_batchnorm": True},
    "pseudo_inverse": {"method": "pseudo_inverse"},
    "rank and pseudo_inverse": {"method": "pseudo_inverse", "rank": 2},
    "pgd on transfer set": {**QUICK, "method": "pgd", "epsilon": 0.1, "attack_steps": 1, "attacked": "end"},
    "save_every": {**QUICK, "save_every": 1},
}


@cache
def trained(epsilon=0.0, seed=0):
    (recipe,) = zoo.recipes(load_data("digits"), ["resnet_tiny"], [epsilon], [seed])
    return find(recipe, "cpu")


def recipe_on(dataset, layer=BLOCK, *, other=None, front=None, end=None, **options):
    front, end = front or trained(), end or trained(0.1)
    return StitchRecipe.of(front, end, layer, other or layer, dataset, StitchOptions(**(options or QUICK)))


def evaluation_on(dataset, attack=None, **options):
    return Evaluation(dataset, attack or Attack(0.1, steps=1), device="cpu", **options)


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Stitches of the checkout are not looked for."""
    monkeypatch.setattr(paths, "stitches", lambda: [paths.data() / "stitches"])


@pytest.fixture(scope="module")
def shared(tiny_data):
    """What donors do on the test images is computed once for all tests here."""
    return evaluation_on(tiny_data)


@pytest.fixture
def fits(monkeypatch):
    """What was fitted, in a list of stitched networks."""
    fit, found = stitches.stitch, []

    def kept(*args, **options):
        result = fit(*args, **options)
        found.append(result[0])
        return result

    monkeypatch.setattr(stitches, "stitch", kept)
    return found


@pytest.fixture
def measurings(monkeypatch):
    """How often something was measured, counted in a list."""
    measure, calls = stitches.measure_stitch, []
    monkeypatch.setattr(
        stitches, "measure_stitch", lambda *args, **options: calls.append(1) or measure(*args, **options)
    )
    return calls


def folder():
    return paths.stitches()[0] / "digits"


def files():
    return sorted(path.name for path in folder().iterdir() if not path.name.endswith(".lock"))


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


# -- made once ----------------------------------------------------------------------------------------------


def test_the_record_says_all_that_is_needed(tiny_data, shared, fits):
    recipe = recipe_on(tiny_data)
    stitch = obtain_stitch(recipe, shared)
    text = (folder() / f"{recipe.address}.json").read_text(encoding="utf-8")
    record = json.loads(text)
    options = record["recipe"].pop("options")
    assert StitchRecipe(**record["recipe"], options=StitchOptions(**options)) == recipe
    assert record["shapes"] == [[16, 8, 8], [16, 8, 8]]
    assert record["channel_axes"] == [0, 0]
    assert stitch.curve.columns.tolist() == ["epoch", "learning_rate", "loss", "accuracy"]
    assert stitch.curve["epoch"].tolist() == [1, 2]
    assert str(folder()) not in text
    assert same(stitch.tensors(), fits[0].learned(with_batchnorm=False))


def test_records_that_do_not_say_where_channels_are_are_of_usual_layouts(tiny_data, shared, fits, measurings):
    recipe = recipe_on(tiny_data)
    stitch = obtain_stitch(recipe, shared)
    path = folder() / f"{recipe.address}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["channel_axes"], record["record_checksum"]
    path.write_text(json.dumps(record), encoding="utf-8")
    older = obtain_stitch(recipe, shared)
    assert (len(fits), len(measurings)) == (1, 1)
    assert "channel_axes" not in older.record
    assert older.transform.layout == stitch.transform.layout == fits[0].transform.layout
    images = tiny_data.test.images[:9]
    with torch.no_grad():
        assert torch.equal(older.network(shared)(images), fits[0](images))


def test_a_stored_transform_knows_where_channels_are(tiny_data, shared):
    stitch = obtain_stitch(recipe_on(tiny_data), shared)
    record = {**stitch.record, "shapes": [[8, 8, 16], [64, 16]], "channel_axes": [2, 1]}
    found = dataclasses.replace(stitch, record=record).transform
    value = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = stitch.transform(value).flatten(2).mT
    torch.testing.assert_close(found(value.permute(0, 2, 3, 1)), expected)


def test_what_was_measured_is_found_under_its_circumstances_only(tiny_data, shared, measurings):
    recipe = recipe_on(tiny_data)
    stitch = obtain_stitch(recipe, shared)
    row = stitch.measured(shared)
    assert shared.key.items() <= row.items()
    assert 0 <= row["accuracy"] <= 1
    others = [
        evaluation_on(tiny_data, Attack(0.2, steps=1)),
        evaluation_on(tiny_data, Attack(0.1, steps=2)),
        evaluation_on(tiny_data, Attack(0.1, "l2", steps=1)),
        evaluation_on(tiny_data, with_autoattack=True),
        evaluation_on(load_data("digits", train_size=200, test_size=50)),
    ]
    assert [stitch.measured(other) for other in others] == [None] * 5
    again = obtain_stitch(recipe, others[0])
    assert len(measurings) == 2
    assert again.measured(others[0])["attack_epsilon"] == 0.2
    assert again.measured(shared) == row
    obtain_stitch(recipe, others[0])
    obtain_stitch(recipe, shared)
    assert len(measurings) == 2


def test_an_attack_of_another_step_size_is_another_circumstance(tiny_data, shared):
    other = evaluation_on(tiny_data, Attack(0.1, steps=1, step_size=0.01))
    assert obtain_stitch(recipe_on(tiny_data), shared).measured(other) is None


def test_a_stitch_is_fitted_on_training_images_and_measured_on_test_images(tiny_data, shared, monkeypatch):
    """The reference code fits and evaluates direct matches on the same images (errata 6)."""
    fit, given = stitches.stitch, []

    def watched(*args, **options):
        given.append(args[4])
        return fit(*args, **options)

    monkeypatch.setattr(stitches, "stitch", watched)
    obtain_stitch(recipe_on(tiny_data, method="pseudo_inverse"), shared)
    (images,) = given
    assert torch.equal(images, tiny_data.train.images)
    assert torch.equal(shared.split.images, tiny_data.test.images)
    pixels = {image.numpy().tobytes() for image in images}
    assert not any(image.numpy().tobytes() in pixels for image in shared.split.images)


def test_what_is_undefined_is_left_out_of_the_record(tiny_data, shared):
    recipe = recipe_on(tiny_data, BLOCK, other="layer3.0.relu2", method="pseudo_inverse", resize=True)
    row = obtain_stitch(recipe, shared).measured(shared)
    assert "distance_before" not in row
    assert "distance_after" in row


# -- saved before it is measured (errata 9) -----------------------------------------------------------------


def test_a_failure_of_measuring_loses_nothing_that_was_fitted(tiny_data, shared, fits, monkeypatch):
    recipe, measure = recipe_on(tiny_data), stitches.measure_stitch

    def fail(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(stitches, "measure_stitch", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        obtain_stitch(recipe, shared)
    saved = find_stitch(recipe)
    assert saved.record["measured"] == []
    assert saved.measured(shared) is None
    assert torch.equal(saved.transform.weight, fits[0].transform.weight)
    monkeypatch.setattr(stitches, "measure_stitch", measure)
    assert obtain_stitch(recipe, shared).measured(shared)["images"] == 60
    assert len(fits) == 1


def test_a_failure_of_a_later_measuring_keeps_the_earlier_ones(tiny_data, shared, fits, monkeypatch):
    recipe = recipe_on(tiny_data)
    row = obtain_stitch(recipe, shared).measured(shared)

    def fail(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(stitches, "measure_stitch", fail)
    with pytest.raises(KeyboardInterrupt):
        obtain_stitch(recipe, evaluation_on(tiny_data, Attack(0.3, steps=1)))
    assert obtain_stitch(recipe, shared).measured(shared) == row
    assert len(fits) == 1


# -- rebuilt exactly ----------------------------------------------------------------------------------------


@pytest.mark.matrix("update_batchnorm-True", "mask-False", "rank and pseudo_inverse-False")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fitting_method", WAYS)
def test_the_stored_recipe_rebuilds_the_network_bitwise(tiny_data, shared, fits, fitting_method, packed):
    recipe = recipe_on(tiny_data, **WAYS[fitting_method])
    stored = obtain_stitch(recipe, shared)
    if packed:
        pack("digits")
        assert not stored.file.exists()
    rebuilt = find_stitch(recipe).network(evaluation_on(tiny_data))
    (fitted,) = fits
    with torch.no_grad():
        logits = rebuilt(tiny_data.test.images)
        assert torch.equal(logits, fitted(tiny_data.test.images))
    assert logits.std() > 0
    assert not any(module.training for module in rebuilt.modules())
    assert same(rebuilt.state_dict(), fitted.state_dict())
    assert same(find_stitch(recipe).transform.state_dict(), fitted.transform.state_dict())


def test_updated_statistics_are_needed_to_rebuild_a_network_and_are_stored(tiny_data, shared, fits):
    updated = obtain_stitch(recipe_on(tiny_data, **WAYS["update_batchnorm"]), shared)
    usual = obtain_stitch(recipe_on(tiny_data), shared)
    assert any(name.startswith("batchnorm.") for name in updated.learned)
    assert not any(name.startswith("batchnorm.") for name in usual.learned)
    fixed = usual.network(shared, updated.transform)
    with torch.no_grad():
        found, without = updated.network(shared)(tiny_data.test.images), fixed(tiny_data.test.images)
    assert not torch.allclose(found, without)


def test_another_transform_can_take_the_place_of_the_stored_one(tiny_data, shared):
    stored = obtain_stitch(recipe_on(tiny_data), shared)
    before = stored.file.read_bytes()
    truncated = stored.transform.truncated(1)
    network = stored.network(shared, truncated)
    assert torch.equal(network.transform.weight, truncated.weight)
    assert torch.linalg.matrix_rank(stored.transform.weight.detach()) > 1
    assert stored.file.read_bytes() == before


@pytest.mark.slow
def test_donors_are_as_they_were_after_all_of_it(tiny_data):
    front, end = trained(), trained(0.1)
    before = [{name: value.clone() for name, value in m.network.state_dict().items()} for m in (front, end)]
    evaluation = evaluation_on(tiny_data)
    obtain_stitch(recipe_on(tiny_data, **WAYS["update_batchnorm"]), evaluation)
    for model, old in zip((front, end), before, strict=True):
        donor = evaluation.donor(model.name, model.record["checksums"][str(model.recipe.epochs)][:12])
        assert same(donor.graph.network.state_dict(), old)
        assert not any(module.training for module in donor.graph.network.modules())


def test_the_transforms_on_the_way_are_kept_as_often_as_asked(tiny_data, shared):
    options = {**QUICK, "epochs": 5}
    stored = obtain_stitch(recipe_on(tiny_data, **options, save_every=2), shared)
    assert list(stored.history) == [2, 4]
    assert [set(tensors) for tensors in stored.history.values()] == [{"full", "bias"}] * 2
    assert not torch.equal(stored.history[2]["full"], stored.history[4]["full"])
    every = obtain_stitch(recipe_on(tiny_data, **options, save_every=1), shared)
    assert list(every.history) == [1, 2, 3, 4, 5]
    assert torch.equal(every.history[4]["full"], stored.history[4]["full"])
    assert same(every.history[5], every.transform.state_dict())
    assert obtain_stitch(recipe_on(tiny_data, **options), shared).history == {}


def test_truncated_copies_are_measured_and_the_stored_transform_stays(tiny_data, shared, fits, measurings):
    recipe = recipe_on(tiny_data, method="pseudo_inverse")
    before = obtain_stitch(recipe, shared)
    content, row = before.file.read_bytes(), before.measured(shared)
    stored = obtain_stitch(recipe, shared, truncations=[1, 4, 16])
    assert len(fits) == 1
    assert len(measurings) == 4
    assert stored.file.read_bytes() == content
    assert stored.measured(shared) == row
    rows = {rank: stored.measured(shared, rank) for rank in (1, 4, 16)}
    assert [rows[rank]["truncated_to"] for rank in rows] == [1, 4, 16]
    assert rows[1]["distance_after"] > rows[4]["distance_after"] > row["distance_after"]
    full = {name: value for name, value in rows[16].items() if isinstance(value, float)}
    assert full == pytest.approx({name: row[name] for name in full}, rel=1e-3, abs=1e-4)
    assert stored.measured(shared, 2) is None
    obtain_stitch(recipe, shared, truncations=[1, 4, 16])
    assert len(measurings) == 4


# -- addresses ----------------------------------------------------------------------------------------------


def test_equal_recipes_have_equal_addresses(tiny_data):
    assert recipe_on(tiny_data).address == recipe_on(tiny_data).address
    # 1 and 1.0, and what has no effect, make no difference
    one, other = recipe_on(tiny_data, l1=1), recipe_on(tiny_data, l1=1.0, beta=3.0, ridge=0)
    assert one.address == other.address
    assert re.fullmatch("[0-9a-f]{12}", one.address)


def test_a_recipe_that_differs_in_any_field_has_another_address(tiny_data):
    recipe = recipe_on(tiny_data, method="pgd", epsilon=0.1, targets="soft_1")
    others = [
        dataclasses.replace(recipe, **{field.name: not recipe.cross_task if value is False else value + "x"})
        for field in dataclasses.fields(recipe)
        if isinstance(value := getattr(recipe, field.name), str | bool)
    ]
    changes = {
        "flatten": True, "resize": True, "rank": 2, "initial": "ones", "mask": "semi_match",
        "method": "trades", "norm": "l2", "epsilon": 0.2, "attack_steps": 3, "step_size": 0.05,
        "attack_ratio": 0.5, "attacked": "end", "targets": "soft_2", "temperature": 2.0, "epochs": 7,
        "batch_size": 9, "learning_rate": 0.5, "schedule": "constant", "optimizer": "sgd",
        "weight_decay": 0.0, "l1": 0.1, "cka_weight": 0.1, "augment": False, "update_batchnorm": True,
        "precision": "bfloat16", "save_every": 1, "seed": 3,
    }  # fmt: skip
    others += [
        dataclasses.replace(recipe, options=recipe.options.but(**{name: value}))
        for name, value in changes.items()
    ]
    trades = recipe_on(tiny_data, method="trades", epsilon=0.1)
    least_squares = recipe_on(tiny_data, method="least_squares")
    others += [
        trades,
        dataclasses.replace(trades, options=trades.options.but(beta=1.0)),
        least_squares,
        dataclasses.replace(least_squares, options=least_squares.options.but(ridge=0.1)),
    ]
    assert {*changes, "beta", "ridge"} == {field.name for field in dataclasses.fields(StitchOptions)}
    addresses = {each.address for each in (recipe, *others)}
    assert len(addresses) == 1 + len(others)


def former_address(recipe):
    """Where a stitch was stored before options meant what they do in the published code."""
    made_by = dataclasses.asdict(recipe)
    assert made_by["options"].pop("precision") == "float32"  # which was the only one
    return address(made_by)


@pytest.mark.parametrize("method", ["least_squares", "pseudo_inverse", "orthogonal"])
def test_a_direct_match_is_where_it_was(tiny_data, method):
    recipe = recipe_on(tiny_data, method=method)
    assert recipe.address == former_address(recipe)


def test_a_stitch_of_a_task_loss_from_before_is_not_taken_for_what_its_options_mean_now(
    tiny_data, shared, fits
):
    recipe = recipe_on(tiny_data)
    obtain_stitch(recipe, shared)
    for path in list(folder().glob(f"{recipe.address}.*")):  # as if it had been fitted then
        path.rename(path.with_name(path.name.replace(recipe.address, former_address(recipe))))
    assert find_stitch(recipe) is None
    assert stored_stitches("digits") == []
    obtain_stitch(recipe, shared)
    assert len(fits) == 2
    assert [each.recipe for each in stored_stitches("digits")] == [recipe]
    records = json.loads(gzip.decompress(pack("digits").read_bytes()))
    assert list(records["stitches"]) == [recipe.address]


def test_a_recipe_names_its_donors_their_weights_and_the_images(tiny_data):
    recipe = recipe_on(tiny_data)
    assert (recipe.front, recipe.end) == (trained().name, trained(0.1).name)
    assert trained().record["checksums"]["30"].startswith(recipe.front_weights)
    assert len(recipe.front_weights) == len(recipe.end_weights) == 12
    assert (recipe.dataset, recipe.fingerprint) == ("digits", tiny_data.fingerprint)
    assert recipe.title == f"{recipe.front}/{BLOCK} → {recipe.end}/{BLOCK}"


# -- refused ------------------------------------------------------------------------------------------------


def test_a_stitch_for_other_images_is_refused(tiny_data, shared, fits):
    other = load_data("digits", train_size=100, test_size=60)
    recipe = recipe_on(other)
    message = (
        f"the stitch is for digits ({other.fingerprint}), the data set is digits ({tiny_data.fingerprint}): "
        "make the recipe with StitchRecipe.of(…, dataset)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        obtain_stitch(recipe, shared)
    assert fits == []


def test_donors_that_were_trained_again_are_refused(tiny_data, fits):
    dataset_recipe = Recipe.on(tiny_data, architecture="mlp", epochs=1, batch_size=100)
    front = obtain(dataset_recipe, tiny_data, device="cpu", progress=False)
    end = find(zoo.recipes(load_data("digits"), ["mlp"], [0.0], [0])[0], "cpu")
    recipe = recipe_on(tiny_data, "hidden.3", front=front, end=end)
    evaluation = evaluation_on(tiny_data)
    obtain_stitch(recipe, evaluation)
    assert stored_model(front.name).name == front.name

    stale = dataclasses.replace(recipe, front_weights="0123456789ab")
    weights = recipe.front_weights
    message = f"{front.name} has other weights ({weights}…) than the stitch was made for (0123456789ab…)."
    with pytest.raises(DamagedArtifact, match=f"^{re.escape(message)}$"):
        obtain_stitch(stale, evaluation)
    with pytest.raises(DamagedArtifact, match="has other weights"):
        evaluation.donor(recipe.end, weights)
    assert len(fits) == 1


def test_an_unknown_donor_is_refused(tiny_data):
    recipe = dataclasses.replace(recipe_on(tiny_data), front="resnet_tiny-000000000000")
    with pytest.raises(ValueError, match=r"^unknown trained model 'resnet_tiny-000000000000'"):
        obtain_stitch(recipe, evaluation_on(tiny_data))


def test_what_fitting_refuses_leaves_nothing_behind(tiny_data, shared):
    recipe = recipe_on(tiny_data, rank=17)
    with pytest.raises(ValueError, match=r"^rank must be between 1 and 16, as the transform takes 16"):
        obtain_stitch(recipe, shared)
    assert files() == []
    assert find_stitch(recipe) is None


# -- evaluations --------------------------------------------------------------------------------------------


def test_an_evaluation_keeps_its_donors_and_goes_to_other_processes_without_them(tiny_data):
    evaluation = evaluation_on(tiny_data)
    recipe = recipe_on(tiny_data)
    donor = evaluation.donor(recipe.front, recipe.front_weights)
    assert evaluation.donor(recipe.front, recipe.front_weights) is donor
    assert donor.logits.shape == (60, 10)
    copy = pickle.loads(pickle.dumps(evaluation))
    assert copy.key == evaluation.key
    assert copy._donors == {}
    assert torch.equal(copy.donor(recipe.front, recipe.front_weights).logits, donor.logits)


def test_a_stitch_can_be_fitted_on_one_data_set_and_measured_on_another(tiny_data, fits):
    other = load_data("digits", train_size=100, test_size=40)
    evaluation = evaluation_on(tiny_data, fitted_on=other)
    stored = obtain_stitch(recipe_on(other, method="pseudo_inverse"), evaluation)
    assert stored.measured(evaluation)["images"] == 60
    with pytest.raises(ValueError, match=r"^the stitch is for digits"):
        obtain_stitch(recipe_on(tiny_data), evaluation)
