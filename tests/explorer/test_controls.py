"""Who moves a control sees what belongs to it; what cannot be shown is said on the page, which goes on."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from repsim.attacks import parse_epsilon
from repsim.cli.parameters import Notebook, read_file
from repsim.explorer import Backend, Explorer, HeatMap, Setting, cached_inputs, controls, saving, views
from repsim.explorer import backend as making
from repsim.explorer.saving import parameters
from repsim.support import paths
from repsim.support.artifacts import DamagedArtifact
from repsim.training.model_store import TrainedModel

PATIENCE = 120  # seconds, on a busy machine
SETTING = Setting(architecture_a="mlp", architecture_b="mlp", epsilon=0.1)


def small_backend():
    return Backend(images=24, layers=["blocks", "penultimate"], attack_steps=2, shown=3)


@pytest.fixture(scope="module")
def backend():
    return small_backend()


@pytest.fixture
def explore(backend):
    """Explorers at a setting, all of whose threads end with the test."""
    made = []

    def make(setting=SETTING, own_backend=None, **options):
        made.append(Explorer(setting, own_backend or backend, **options))
        settle(made[-1])
        return made[-1]

    yield make
    for each in made:
        each.close()


def settle(found):
    assert found.wait(PATIENCE)


def move(found, **values):
    for name, value in values.items():
        found.controls[name].value = value
    settle(found)


def seen(found):
    """All that is on the page, by the name of the view."""
    texts = {name: view.value for name, view in found.views.items()}
    return {**texts, "map": found.map.texts, "caption": found.map.caption, "chosen": found.map.chosen}


def message(found):
    return re.sub("<[^>]*>", "", found.status.value).replace("⚠", "").strip()


# -- every control does something ---------------------------------------------------------------------------


@pytest.mark.matrix("network_a", "measure", "epsilon", "layer_a", "image")
@pytest.mark.parametrize(
    ("moved", "changed", "same"),
    [
        ({"network_a": "mlp, ε = 0.2"}, {"map", "answers", "curve", "neighbors", "pictures"}, {"chosen"}),
        ({"network_b": "mlp, ε = 0.2"}, {"map", "answers", "curve", "neighbors", "pictures"}, {"chosen"}),
        ({"seed": 1}, {"map", "answers", "curve", "neighbors", "pictures"}, {"chosen"}),
        ({"measure": "rsa"}, {"map", "caption", "curve"}, {"answers", "neighbors", "pictures"}),
        ({"inputs": "adversarial"}, {"map", "answers", "neighbors"}, {"curve", "pictures"}),
        ({"inputs": "inverted"}, {"map", "answers", "neighbors"}, {"curve", "pictures"}),
        ({"attack": "FGSM, L∞"}, {"curve", "pictures"}, {"map", "answers", "neighbors"}),
        ({"epsilon": 0.2}, {"curve", "pictures"}, {"map", "answers", "neighbors"}),
        (
            {"layer_a": "hidden.1"},
            {"caption", "chosen", "curve", "neighbors"},
            {"map", "answers", "pictures"},
        ),
        (
            {"layer_b": "hidden.1"},
            {"caption", "chosen", "curve", "neighbors"},
            {"map", "answers", "pictures"},
        ),
        ({"image": 5}, {"answers", "neighbors", "pictures"}, {"map", "caption", "curve"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_control_changes_what_it_is_for_and_nothing_else(explore, moved, changed, same):
    found = explore()
    before = seen(found)
    move(found, **moved)
    after = seen(found)
    assert {name for name in before if before[name] != after[name]} >= changed
    assert all(before[name] == after[name] for name in same)
    assert message(found) == ""


def test_epsilon_moves_the_map_of_adversarial_images(explore):
    found = explore(SETTING.but(inputs="adversarial"))
    before = seen(found)
    move(found, epsilon=0.3)
    assert seen(found)["map"] != before["map"]
    assert "ε = 0.3" in found.views["curve"].value


def test_another_data_set_has_other_networks_and_images(explore):
    found = explore(own_backend=small_backend())
    move(found, dataset="shapes")
    assert found.setting.dataset == "shapes"
    assert "mlp, standard" not in found.controls["network_a"].options
    assert (found.setting.architecture_a, found.setting.trained_a) == ("resnet_tiny", 0.0)
    assert (found.setting.architecture_b, found.setting.trained_b) == ("resnet_tiny", 0.05)
    assert "circle" in found.views["answers"].value
    assert message(found) == ""
    move(found, dataset="digits")
    assert found.setting.architecture_a == "resnet_tiny"  # which both have
    assert found.shown.map.shape == tuple(len(layers) for layers in found.shown.layers)


def test_epsilon_goes_as_far_along_its_slider_by_the_other_norm(explore):
    found = explore()
    place = found.controls["epsilon"].index
    move(found, attack="PGD, L2")
    assert found.controls["epsilon"].index == place
    assert found.setting.norm == "l2"
    assert found.setting.epsilon == found.controls["epsilon"].value > 0.3


def test_the_stop_button_drops_what_is_computed(explore):
    found = explore()
    found.stop_button.click()
    settle(found)
    assert message(found) == "stopped; move a control to go on"
    move(found, image=2)
    assert message(found) == ""
    assert found.shown.setting.image == 2


# -- the map ------------------------------------------------------------------------------------------------


def test_a_click_in_the_map_moves_both_sliders_of_layers(explore):
    found = explore()
    found.map.chosen = [0, 1]
    settle(found)
    assert found.controls["layer_a"].value == found.shown.layers[0][0] == found.setting.layer_a
    assert found.controls["layer_b"].value == found.shown.layers[1][1] == found.setting.layer_b
    value = found.shown.map.iloc[0, 1]
    assert found.map.caption.startswith(f"cka = {value:.3f}: {found.setting.layer_a} of A")


def test_sliders_of_layers_move_the_choice_in_the_map(explore):
    found = explore()
    move(found, layer_a=found.shown.layers[0][1])
    assert found.map.chosen == [1, len(found.shown.layers[1]) - 1]


def test_networks_of_other_depth_have_other_layers(explore):
    found = explore()
    move(found, network_b="resnet_tiny, ε = 0.1")
    assert list(found.controls["layer_b"].options) == found.shown.layers[1]
    assert found.map.columns == found.shown.layers[1] != found.map.rows


def test_colours_of_a_map_go_from_dark_to_light():
    drawn = HeatMap()
    drawn.show(pd.DataFrame([[0.0, 0.5], [1.0, float("nan")]], ["a", "b"], ["c", "d"]), "title")
    assert (drawn.rows, drawn.columns, drawn.caption) == (["a", "b"], ["c", "d"], "title")
    bright = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for line in drawn.colors for colour in line]
    assert bright[0] < bright[1] < bright[2] < bright[3] == 3 * 255
    assert drawn.texts == [["0.000", "0.500"], ["1.000", "nan"]]


# -- moving fast --------------------------------------------------------------------------------------------


def test_what_is_asked_while_something_is_computed_is_not_computed_if_more_is_asked(explore, monkeypatch):
    found = explore(own_backend=small_backend())
    answered = []
    original = Backend.partial_results

    def noted(self, setting, step=lambda: None):
        answered.append(setting.epsilon)
        return original(self, setting, step)

    monkeypatch.setattr(Backend, "partial_results", noted)
    monkeypatch.setattr(Backend, "ahead", lambda self, setting, step: None)
    stops = [value for _, value in found.controls["epsilon"].options]
    for stop in stops * 3:
        found.controls["epsilon"].value = stop
    settle(found)
    assert answered[-1] == found.shown.setting.epsilon == stops[-1]
    assert len(answered) < len(stops * 3)


def test_a_slider_in_someones_hand_is_not_moved_back(explore, monkeypatch):
    """While one value is being shown, the control has gone on."""
    monkeypatch.setattr(Backend, "ahead", lambda self, setting, step: None)
    found = explore()
    original = Backend.partial_results

    def while_it_moves_on(self, setting, step=lambda: None):
        found.controls["epsilon"].value = 0.3  # from this thread, so that it asks for nothing
        return original(self, setting, step)

    monkeypatch.setattr(Backend, "partial_results", while_it_moves_on)
    move(found, epsilon=0.2)
    assert found.shown.setting.epsilon == 0.2
    assert found.controls["epsilon"].value == 0.3


@pytest.mark.slow
def test_epsilon_of_another_data_set_is_a_stop_of_its_own(explore):
    found = explore(own_backend=small_backend())
    found.controls["dataset"].value = "shapes"
    for stop in (0.3, 0.275, 0.3):  # dragged on while the slider becomes another
        if stop in [value for _, value in found.controls["epsilon"].options]:
            found.controls["epsilon"].value = stop
    settle(found)
    assert message(found) == ""
    assert found.setting.epsilon in found.backend.epsilons("shapes", "linf")


def test_two_visitors_do_not_disturb_each_other(explore):
    one, other = explore(), explore()
    before = seen(other)
    move(one, image=7, measure="rsa", epsilon=0.2)
    settle(other)
    assert seen(other) == before
    assert other.setting.image == 0


# -- what goes wrong ----------------------------------------------------------------------------------------


def test_a_network_that_is_not_there(explore):
    found = explore(SETTING.but(seed=9))
    assert message(found) == (
        "mlp, standard, seed 9, is not in the store of digits: choose another, or train it with notebook 00."
    )
    move(found, seed=0)
    assert message(found) == ""
    assert found.shown.value > 0


def test_images_that_are_not_there_leave_the_other_views(explore, monkeypatch):
    monkeypatch.setattr(cached_inputs, "find_inverted", lambda recipe: None)
    found = explore(SETTING.but(inputs="inverted"), small_backend())
    assert message(found) == (
        "no images inverted through mlp, standard, seed 0, are in the store: choose other inputs, or make "
        "them with notebook 03."
    )
    assert "natural" in found.views["pictures"].value
    assert found.views["curve"].value
    move(found, inputs="natural")
    assert message(found) == ""


def test_a_network_whose_file_has_vanished(explore, monkeypatch):
    own = small_backend()
    lost = own.model(SETTING, "b")
    monkeypatch.setattr(TrainedModel, "at_epoch", vanished(lost.name, TrainedModel.at_epoch))
    found = explore(SETTING, own)
    assert message(found) == "DamagedArtifact: the weights are missing"
    move(found, network_b="mlp, ε = 0.2")
    assert message(found) == ""
    assert found.shown.setting.trained_b == 0.2


def vanished(name, load):
    def at_epoch(self, epoch):
        if self.name == name:
            raise DamagedArtifact("the weights are missing")
        return load(self, epoch)

    return at_epoch


def test_whatever_goes_wrong_is_said_and_the_next_request_is_answered(explore, monkeypatch):
    found = explore(own_backend=small_backend())
    monkeypatch.setattr(making, "row_of", lambda *a: 1 / 0)
    move(found, measure="rsa")
    assert message(found) == "ZeroDivisionError: division by zero"
    monkeypatch.undo()
    move(found, measure="jaccard")
    assert message(found) == ""
    assert found.shown.setting.measure == "jaccard"


def test_texts_from_elsewhere_are_no_html():
    assert "<b>" not in views.message(["<b>bold</b>"])
    assert "<b>" not in views.pictures({"<b>": torch.zeros(3, 2, 2)})
    table = pd.DataFrame({"network": ["A", "B"], "class": ["<b>"] * 2, "probability": [0.5, 1.0]})
    assert "<b>" not in views.answers(table, "<b>", "natural")


# -- saving -------------------------------------------------------------------------------------------------


def test_what_is_shown_is_saved_with_its_tables(explore):
    found = explore(SETTING.but(image=3, epsilon=0.2))
    saved = found.save()
    folder = paths.figures("digits")
    names = ("07_map", "07_curve", "07_pictures", "07_answers")
    expected = [folder / f"{name}.{kind}" for name in names for kind in ("png", "pdf", "csv")]
    assert saved == [*expected, folder / "07_setting.yaml"]
    assert all(path.stat().st_size > 100 for path in saved)
    table = pd.read_csv(folder / "07_map.csv")
    value = table.set_index(["layer_a", "layer_b"]).loc[
        (found.setting.layer_a, found.setting.layer_b), "value"
    ]
    assert value == pytest.approx(found.shown.value, abs=1e-5)
    assert set(table["epsilon"]) == {0.2}


@pytest.mark.slow
def test_what_is_saved_again_is_the_same(explore):
    found = explore(SETTING.but(image=3, epsilon=0.2))
    before = {path: path.read_bytes() for path in found.save()}
    assert {path: path.read_bytes() for path in found.save()} == before


@pytest.fixture
def _no_figures(monkeypatch):
    """Files of figures take long to write, and are another test's."""
    monkeypatch.setattr(saving.plots, "save", lambda *given, **named: None)


@pytest.mark.usefixtures("_no_figures")
def test_an_exploration_becomes_a_batch_run(explore):
    """What is written is what the notebook takes, and means the same."""
    found = explore(SETTING.but(inputs="adversarial", image=2))
    found.save()
    path = paths.figures("digits") / "07_setting.yaml"
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == parameters(found.setting)
    notebook = Notebook.read(Path(__file__).parents[2] / "notebooks" / "07_explorer.ipynb")
    given = read_file(path)
    taken = {name: notebook.values(given)[name] for name in given}
    read = {name: parse_epsilon(taken[name]) for name in ("trained_a", "trained_b", "epsilon")}
    assert Setting(**{**taken, **read}) == found.setting


@pytest.mark.usefixtures("_no_figures")
def test_the_save_button_says_where(explore):
    found = explore()
    found.save_button.click()
    assert message(found) == f"saved 13 files in {paths.figures('digits')}"


def test_there_is_nothing_to_save_where_nothing_is_shown(explore):
    found = explore(SETTING.but(seed=9))
    with pytest.raises(ValueError, match=r"^what is shown is not complete: there is nothing to save yet\.$"):
        found.save()
    found.save_button.click()
    assert message(found) == "what is shown is not complete: there is nothing to save yet."


def test_a_folder_that_cannot_be_written_is_said(explore, monkeypatch):
    found = explore()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(controls, "save_results", full)
    found.save_button.click()
    assert message(found) == "OSError: [Errno 28] No space left on device"
