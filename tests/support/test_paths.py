"""Data and figures live in the checkout or where `REPSIM_HOME` says, never where one happens to stand."""

from pathlib import Path

import pytest

from repsim.support import paths

CHECKOUT = Path(__file__).resolve().parents[2]


def test_repsim_home_decides(tmp_path, monkeypatch):
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path / "mine"))
    assert paths.home() == tmp_path / "mine"
    assert paths.data() == tmp_path / "mine" / "data"
    assert paths.committed_figures("digits") == tmp_path / "mine" / "figures" / "digits"
    assert paths.figures("digits") == tmp_path / "mine" / "figures" / "runs" / "digits"
    assert paths.notebooks() == tmp_path / "mine" / "notebooks"
    assert not paths.home().exists()  # asking for a folder does not make it


def test_repsim_home_may_start_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REPSIM_HOME", "~/research")
    assert paths.home() == tmp_path / "research"


@pytest.mark.parametrize("unset", [None, ""])
def test_the_checkout_is_found_from_any_folder(tmp_path, monkeypatch, unset):
    monkeypatch.delenv("REPSIM_HOME")
    if unset is not None:
        monkeypatch.setenv("REPSIM_HOME", unset)
    for folder in (tmp_path, CHECKOUT / "tests", CHECKOUT):
        monkeypatch.chdir(folder)
        assert paths.home() == CHECKOUT
    assert (paths.home() / "pyproject.toml").is_file()


def test_outside_a_checkout_the_variable_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("REPSIM_HOME")
    monkeypatch.setattr(
        paths, "__file__", str(tmp_path / "site-packages" / "repsim" / "support" / "paths.py")
    )
    with pytest.raises(RuntimeError) as refusal:
        paths.home()
    assert str(refusal.value) == (
        f"{tmp_path / 'site-packages'} is no repsim checkout (it has no notebooks/ folder): set the "
        "environment variable REPSIM_HOME to the folder that should hold data/ and figures/."
    )
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path))
    assert paths.data() == tmp_path / "data"


def test_the_committed_zoo_is_found_from_any_home(tmp_path, monkeypatch):
    assert paths.models() == [tmp_path / "data" / "models", CHECKOUT / "data" / "models"]
    monkeypatch.delenv("REPSIM_HOME")
    assert paths.models() == [CHECKOUT / "data" / "models"]


@pytest.mark.parametrize(
    ("dataset", "slug"),
    [
        ("digits", "digits"),
        ("folder:/photos/cats", "cats"),
        ("folder:/photos/cats/", "cats"),
        ("folder:~/my cats & dogs", "my_cats_dogs"),
        ("folder:photos/cats-v1.2", "cats-v1.2"),
        ("folder:photos/../cats", "cats"),
        ("folder:/photos/.hidden", "hidden"),
        ("folder:/", "unnamed"),
        ("../up/here", "here"),
        ("..", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_a_data_set_names_a_folder(dataset, slug):
    assert paths.dataset_slug(dataset) == slug


def test_the_folder_one_stands_in_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "pets" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "pets" / "train")
    assert paths.dataset_slug("folder:.") == "train"
    assert paths.dataset_slug("folder:..") == "pets"


def test_inverted_images_are_kept_beside_the_models(tmp_path, monkeypatch):
    assert paths.inverted() == [tmp_path / "data" / "inverted", CHECKOUT / "data" / "inverted"]
    monkeypatch.delenv("REPSIM_HOME")
    assert paths.inverted() == [CHECKOUT / "data" / "inverted"]


def test_values_and_probes_are_kept_beside_the_other_data(tmp_path, monkeypatch):
    assert paths.comparisons() == tmp_path / "data" / "comparisons"
    assert paths.probes() == tmp_path / "data" / "probes"
    assert not paths.data().exists()
    monkeypatch.delenv("REPSIM_HOME")
    assert paths.comparisons() == CHECKOUT / "data" / "comparisons"
    assert paths.probes() == CHECKOUT / "data" / "probes"
