"""Inverted images and lists of indices that others published, on files written in their format."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch

from repsim.activations import Observer
from repsim.data import load_data, to_bytes
from repsim.studies.comparison import compare_models
from repsim.studies.inversion import (
    InversionOptions,
    InversionRecipe,
    Pairs,
    experiments,
    find_inverted,
    invert,
    read_inverted,
    read_sets,
)
from repsim.studies.inversion import published as others
from repsim.support import paths
from repsim.support.artifacts import DamagedArtifact
from repsim.training import Recipe
from repsim.training.model_store import TrainedModel, find
from repsim.training.zoo import recipes

COUNT = 6


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Inverted images of the checkout are not looked for."""
    monkeypatch.setattr(paths, "inverted", lambda: [paths.data() / "inverted"])


@pytest.fixture(scope="module")
def models():
    """A standard network, a robust one, and a second robust one that differs by its seed."""
    data = load_data("digits")
    wanted = recipes(data, ["mlp"], [0.0], [0]) + recipes(data, ["mlp"], [0.2], [0, 1])
    return [find(recipe, "cpu") for recipe in wanted]


@pytest.fixture
def pairs(tiny_data):
    return Pairs.draw(tiny_data, COUNT, keep=False)


@pytest.fixture
def inverted(models, tiny_data, pairs):
    """Images that were made through the first model."""
    split = tiny_data.test
    made = invert(models[0].network, pairs.seeds(split), pairs.targets(split), iterations=40, progress=False)
    return made.images


def as_published(path, indices):
    """A list of indices as pandas writes a frame of one unnamed column."""
    pd.DataFrame(np.array(indices)).to_csv(path)
    return path


def lists(folder, pairs):
    return [
        as_published(folder / "seed_indices_0.csv", pairs.seed_index.tolist()),
        as_published(folder / "target_indices_0.csv", pairs.target_index.tolist()),
    ]


def saved(path, content):
    torch.save(content, path)
    return path


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


# lists of indices


def test_the_published_lists_are_pairs(tiny_data, pairs, tmp_path):
    files = lists(tmp_path, pairs)
    assert files[0].read_text().startswith(f",0\n0,{pairs.seed_index[0]}\n")
    read = Pairs.read_files(files, tiny_data)
    assert torch.equal(read.seed_index, pairs.seed_index)
    assert torch.equal(read.target_index, pairs.target_index)
    assert read.address == pairs.address


def test_seeds_alone_have_all_test_images_as_targets_in_their_order(tiny_data, tmp_path):
    labels = tiny_data.test.labels
    seeds = [int((labels != label).nonzero()[3]) for label in labels]
    read = Pairs.read_files([str(as_published(tmp_path / "seeds.csv", seeds))], tiny_data)
    assert read.target_index.tolist() == list(range(60))
    assert read.seed_index.tolist() == seeds


def test_one_table_of_ours_is_read_too(tiny_data, pairs, tmp_path):
    pairs.write(tmp_path / "mine.csv", tiny_data)
    assert Pairs.read_files([tmp_path / "mine.csv"], tiny_data).address == pairs.address


def test_an_index_that_is_out_of_range_names_the_file(tiny_data, tmp_path):
    for wrong in (60, 93211, -1):
        path = as_published(tmp_path / "seeds.csv", [0, wrong])
        with refused(
            f"{path} has the index {wrong}, but digits has 60 test images. (The lists for ImageNet-100 and "
            "ImageNet-50 were drawn from training images.)"
        ):
            Pairs.read_files([path], tiny_data)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", ",0\n0,1.5\n", ",0\n0,one\n", ",0\n0,\n"], ids=range(5))
def test_a_file_that_is_no_such_list(tiny_data, pairs, tmp_path, text):
    files = lists(tmp_path, pairs)
    files[1].write_text(text)
    message = f"{files[1]} is no published list of indices (a column '0' beside the number of the row): "
    with pytest.raises(DamagedArtifact, match=f"^{re.escape(message)}"):
        Pairs.read_files(files, tiny_data)


@pytest.mark.usefixtures("unchecked")
def test_lists_that_do_not_belong_together(tiny_data, pairs, tmp_path):
    files = lists(tmp_path, pairs)
    as_published(files[0], [0, 1])
    with refused(f"each seed needs one target, got 2 seeds and {COUNT} targets."):
        Pairs.read_files(files, tiny_data)
    with refused("pairs are one table, or a file of seeds and a file of targets, not 3 files."):
        Pairs.read_files([*files, files[0]], tiny_data)
    with refused(f"{tmp_path / 'none.csv'} is not there."):
        Pairs.read_files([tmp_path / "none.csv"], tiny_data)


def test_a_drawing_that_is_not_kept_is_the_same_and_writes_nothing(tiny_data):
    assert not paths.data().exists()
    drawn = Pairs.draw(tiny_data, COUNT, keep=False)
    assert not paths.data().exists()
    assert Pairs.draw(tiny_data, COUNT).address == drawn.address
    assert paths.data().exists()


# images


def test_floats_and_bytes_are_one_set_and_kept_like_ours(models, tiny_data, pairs, inverted, tmp_path):
    floats = read_inverted(saved(tmp_path / "f.pt", inverted), models[0], tiny_data, pairs)
    half = read_inverted(saved(tmp_path / "b.pt", to_bytes(inverted)), models[0], tiny_data, pairs)
    assert floats.recipe == half.recipe
    assert torch.equal(floats.images, to_bytes(inverted).float() / 255)
    assert torch.equal(floats.target_index, pairs.target_index)
    assert torch.equal(floats.seed_index, pairs.seed_index)
    again = find_inverted(floats.recipe)
    assert again.file == floats.file
    assert again.file.parent == paths.inverted()[0] / "digits"
    again.check_pairs(pairs)
    again.check_model(models[0])
    with pytest.raises(ValueError, match="weights"):
        again.check_model(models[1])


def test_distances_are_measured_with_the_network(models, tiny_data, pairs, inverted, tmp_path):
    file = saved(tmp_path / "f.pt", to_bytes(inverted))
    own, other = (read_inverted(file, model, tiny_data, pairs) for model in models[:2])
    layers = models[0].graph.select("penultimate")
    observer = Observer(models[0].graph, layers)
    images = own.images, pairs.targets(tiny_data.test)
    here, there = (observer.observe(each).values[layers[0]] for each in images)
    torch.testing.assert_close(own.loss, (here - there).norm(dim=1) / there.norm(dim=1))
    assert own.loss.mean() < other.loss.mean()
    curve = experiments.curves(models[:1], {models[0].name: own})
    assert curve["iteration"].tolist() == [others.PUBLISHED.iterations]
    assert curve["loss"].item() == pytest.approx(own.loss.mean().item())


def test_images_at_their_targets_have_converged(models, tiny_data, pairs, tmp_path):
    targets = pairs.targets(tiny_data.test)
    found = read_inverted(saved(tmp_path / "f.pt", targets), models[0], tiny_data, pairs)
    assert found.record["converged"] == 1
    seeds = pairs.seeds(tiny_data.test)
    found = read_inverted(saved(tmp_path / "g.pt", seeds), models[0], tiny_data, pairs)
    assert found.record["converged"] == 0


def test_a_set_of_others_is_never_taken_for_one_of_ours(models, tiny_data, pairs, inverted, tmp_path):
    options = InversionOptions(iterations=3)
    file = saved(tmp_path / "f.pt", inverted)
    theirs = read_inverted(file, models[0], tiny_data, pairs, options=options)
    ours = InversionRecipe.of(models[0], pairs, options=options)
    assert find_inverted(ours) is None
    assert theirs.recipe.address != ours.address
    brighter = saved(tmp_path / "g.pt", (inverted + 0.1).clamp(0, 1))
    changed = read_inverted(brighter, models[0], tiny_data, pairs, options=options)
    assert changed.recipe.address != theirs.recipe.address


def test_models_are_compared_on_them(models, tiny_data, pairs, inverted, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    saved(folder / "mlp_eps0.pt", inverted)
    saved(folder / "mlp_eps02_uint8.pt", to_bytes(pairs.targets(tiny_data.test)))
    sets = read_sets(folder, models[:2], tiny_data, pairs)
    options = InversionOptions(iterations=2)
    same = experiments.obtain_sets(models[:2], tiny_data, pairs, options, published=str(folder))
    assert {name: each.recipe for name, each in same.items()} == {n: each.recipe for n, each in sets.items()}
    table = compare_models(models[:2], tiny_data, "cka", "inverted", pairs=pairs, sets=sets, progress=False)
    natural = compare_models(models[:2], tiny_data, "cka", pairs=pairs, progress=False)
    through = table.set_index("model_a")["value"]
    # the robust one's images are the targets themselves
    assert through[models[1].name] == pytest.approx(natural["value"].iloc[0], abs=0.01)
    assert through[models[0].name] != pytest.approx(natural["value"].iloc[0], abs=0.01)


def test_files_are_found_by_name(models, tmp_path):
    robust = models[1]
    with refused(
        f"{tmp_path} holds no inverted images of mlp, ε = 0.2, seed 0: looked for {robust.name}.pt, "
        "mlp_eps02.pt, mlp_eps02_uint8.pt."
    ):
        others.published_file(tmp_path, robust)
    for name in ("mlp_eps02_uint8.pt", "mlp_eps02.pt", f"{robust.name}.pt"):
        (tmp_path / name).touch()
        assert others.published_file(str(tmp_path), robust).name == name
    theirs = Recipe(
        "imagenet", "torchvision:resnet18", method="imported", epsilon=0.25, norm="l2", origin="o"
    )
    (tmp_path / "resnet18_eps025.pt").touch()
    assert others.published_file(tmp_path, TrainedModel(theirs, tmp_path / "a.json", {})).name == (
        "resnet18_eps025.pt"
    )


def test_one_file_is_of_one_network(models, tiny_data, pairs, inverted, tmp_path):
    saved(tmp_path / "mlp_eps02.pt", inverted)
    first, second = models[1:]
    with refused(
        f"{tmp_path / 'mlp_eps02.pt'} is of one network, but {first.name} and {second.name} are both called "
        f"so: take one seed, or name the files {first.name}.pt and {second.name}.pt."
    ):
        read_sets(tmp_path, models[1:], tiny_data, pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda images: images * 255,
            "has pixels in [0, 255], not in [0, 1]: they look like bytes, so divide them by 255, or save "
            "them as uint8.",
        ),
        (
            lambda images: (images - 0.5) / 0.25,
            "has pixels in [-2, 2], not in [0, 1]: they look normalised, so multiply them by the deviation "
            "and add the mean of the network's inputs.",
        ),
        (
            lambda images: images + 0.5,
            "has pixels in [0.5, 1.5], not in [0, 1]: something is wrong with them.",
        ),
        (
            lambda images: images.log(),
            "has pixels in [-inf, 0], not in [0, 1]: they look normalised, so multiply them by the deviation "
            "and add the mean of the network's inputs.",
        ),
        (lambda images: images[:4], f"holds 4 images, but there are {COUNT} pairs of a seed and a target."),
        (
            lambda images: images[:, :, :8],
            "is a tensor of shape (6, 1, 8, 16); inverted images of digits are (n, 1, 16, 16).",
        ),
        (
            lambda images: images.permute(0, 2, 3, 1),
            "is a tensor of shape (6, 16, 16, 1): its channels come last; inverted images of digits are "
            "(n, 1, 16, 16).",
        ),
        (
            lambda images: images.flatten(),
            "is a tensor of shape (1536,); inverted images of digits are (n, 1, 16, 16).",
        ),
        (lambda images: {"images": images}, "holds a dict, not one tensor of images."),
        (
            lambda images: images.long(),
            "holds numbers of type torch.int64: images are floats in [0, 1], or uint8.",
        ),
    ],
    ids=[
        "bytes as floats",
        "normalised",
        "brightened",
        "no numbers",
        "too few",
        "other size",
        "channels last",
        "flat",
        "dict",
        "int64",
    ],
)
def test_what_is_no_set_of_these_pairs(models, tiny_data, pairs, tmp_path, change, message):
    images = torch.zeros(COUNT, 1, 16, 16)
    images[:, :, 0] = 1
    path = saved(tmp_path / "f.pt", change(images))
    with refused(f"{path} {message}"):
        read_inverted(path, models[0], tiny_data, pairs)
    assert not paths.inverted()[0].exists()


def test_not_a_number_is_refused(models, tiny_data, pairs, tmp_path):
    path = saved(tmp_path / "f.pt", torch.full((COUNT, 1, 16, 16), torch.nan))
    with refused(f"{path} has pixels in [nan, nan], not in [0, 1]: something is wrong with them."):
        read_inverted(path, models[0], tiny_data, pairs)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("it was executed",))


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><html>", b"", pickle.dumps(Trap(), protocol=2)],
    ids=["a web page", "empty", "a pickle"],
)
def test_what_is_no_tensor(models, tiny_data, pairs, tmp_path, content):
    path = tmp_path / "f.pt"
    path.write_bytes(content)
    with refused(
        f"{path} is no tensor as torch.save writes it, or holds more than tensors, which is refused: it "
        f"begins with {content[:16]!r}."
    ):
        read_inverted(path, models[0], tiny_data, pairs)
    with refused(f"{tmp_path / 'none.pt'} is not there."):
        read_inverted(tmp_path / "none.pt", models[0], tiny_data, pairs)
