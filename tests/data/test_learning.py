"""Training on what is not held in memory, on attributes instead of classes, and on parts of photographs."""

import dataclasses
import re

import pandas as pd
import pytest
import torch

from repsim.attacks import Attack
from repsim.data import Augmentation, Dataset, Split, StreamedSplit, streaming
from repsim.studies.comparison import compare_groups, compare_models
from repsim.studies.inversion import Pairs
from repsim.studies.models.evaluation import adversarial_examples, transfer_table
from repsim.studies.probing import ProbeOptions
from repsim.studies.probing.store import obtain_probes
from repsim.studies.stitching.measuring import Donor
from repsim.support.compat import torchvision
from repsim.training import Recipe, accuracy, augmented, model_store, predict, robust_accuracy, train


def run(dataset, architecture="mlp", *, checkpoint=None, on_epoch=None, **options):
    recipe = Recipe.on(dataset, architecture, **{"epochs": 3, "batch_size": 32, **options})
    return train(recipe, dataset, device="cpu", progress=False, checkpoint=checkpoint, on_epoch=on_epoch)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


# -- streamed -----------------------------------------------------------------------------------------------


class Levels:
    """Images that are made from a tensor when they are read."""

    def __init__(self, images):
        self.images = (images * 255).round().to(torch.uint8)

    def read(self, row):
        return self.images[row]

    def name(self, row):
        return f"image {row}"

    def mark(self, row):
        return str(row)


@pytest.fixture
def both(tiny_data):
    """The same images in memory and streamed, with augmentation."""
    source = Levels(tiny_data.train.images)
    images = streaming.from_bytes(source.images)
    moving = dataclasses.replace(tiny_data, augmentation=Augmentation(crop=1, flip=True))
    held = dataclasses.replace(moving, train=Split(images, tiny_data.train.labels))
    streamed = StreamedSplit.all_of(source, tiny_data.train.labels)
    return held, dataclasses.replace(moving, train=streamed)


@pytest.mark.parametrize(
    "options", [{}, {"method": "pgd", "epsilon": 0.1, "attack_steps": 2}], ids=["standard", "pgd"]
)
def test_streaming_changes_nothing(both, options):
    (one, curve), (other, same_curve) = (run(dataset, **options) for dataset in both)
    assert same(one.state_dict(), other.state_dict())
    pd.testing.assert_frame_equal(curve, same_curve, check_exact=True)


def test_a_kill_and_a_resumption_of_streamed_training(both, tmp_path):
    class Killed(Exception):
        pass

    def kill(epoch, model):
        if epoch == 2:
            raise Killed

    whole, _ = run(both[1])
    with pytest.raises(Killed):
        run(both[1], checkpoint=tmp_path / "c", on_epoch=kill)
    resumed, _ = run(both[1], checkpoint=tmp_path / "c")
    assert same(whole.state_dict(), resumed.state_dict())


def test_an_unreadable_image_stops_training_with_its_name(both, monkeypatch):
    def read(self, row):
        raise streaming.UnreadableImage(f"image {row} cannot be read")

    monkeypatch.setattr(Levels, "read", read)
    with pytest.raises(streaming.UnreadableImage, match=r"^image \d+ cannot be read$"):
        run(both[1])


# -- attributes ---------------------------------------------------------------------------------------------


def attributes_of(labels):
    """Three of a digit: is it odd, is it five or more, has it a hole."""
    holes = torch.isin(labels, torch.tensor([0, 6, 8, 9]))
    return torch.stack([labels % 2 == 1, labels >= 5, holes], dim=1).float()


@pytest.fixture(scope="module")
def attributes(tiny_data) -> Dataset:
    parts = {
        name: Split(split.images, attributes_of(split.labels))
        for name, split in (("train", tiny_data.train), ("test", tiny_data.test))
    }
    return dataclasses.replace(
        tiny_data, name="attributes", title="attributes", classes=("odd", "large", "hole"), **parts
    )


@pytest.fixture
def trained(attributes, tmp_path, monkeypatch):
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path))
    recipe = Recipe.on(attributes, "mlp", epochs=4, method="pgd", epsilon=0.05, attack_steps=2)
    return model_store.obtain(recipe, attributes, device="cpu", progress=False)


def test_training_on_attributes(attributes):
    model, curve = run(attributes, epochs=20)
    images, labels = attributes.test.images, attributes.test.labels
    logits = predict(model, images)
    assert logits.shape == (60, 3)
    by_hand = ((logits > 0).float() == labels).double().mean().item()
    assert accuracy(model, images, labels) == pytest.approx(by_hand)
    assert by_hand > 0.8
    assert curve["loss"].iloc[-1] < 0.5 * curve["loss"].iloc[0]
    assert curve["accuracy"].iloc[-1] > 0.9


@pytest.mark.slow
def test_attacks_on_attributes(attributes):
    model, _ = run(attributes, epochs=20)
    table = robust_accuracy(
        model, attributes.test, [Attack(0.0), Attack(0.02, steps=5), Attack(0.1, steps=5)]
    )
    found = table["accuracy"].tolist()
    assert found == sorted(found, reverse=True)
    assert found[0] > found[2] + 0.3
    robust, _ = run(attributes, epochs=20, method="pgd", epsilon=0.05, attack_steps=3)
    assert (
        robust_accuracy(robust, attributes.test, [Attack(0.1, steps=5)])["accuracy"].item() > found[2] + 0.1
    )


def test_models_of_attributes_are_stored_with_their_accuracies(trained, attributes):
    assert trained.record["classes"] == ["odd", "large", "hole"]
    clean = accuracy(trained.network, attributes.test.images, attributes.test.labels)
    assert trained.accuracies["accuracy"].iloc[0] == pytest.approx(clean, abs=1e-6)
    assert trained.accuracies["epsilon"].tolist() == [0.0, 0.05]
    measured = model_store.measure(trained, attributes, [Attack(0.1, steps=3)])
    assert measured["accuracy"].item() <= clean
    table = transfer_table([trained], attributes.test, Attack(0.1, steps=3))
    assert table["accuracy"].item() == pytest.approx(measured["accuracy"].item(), abs=1e-6)


def test_a_subset_of_images_with_attributes(attributes):
    few, more = attributes.train.subset(20), attributes.train.subset(50)
    rows = [{image.numpy().tobytes() for image in split.images} for split in (few, more, attributes.train)]
    assert rows[0] < rows[1] < rows[2]
    assert few.labels.shape == (20, 3)
    assert torch.equal(few.images, attributes.train.subset(20).images)
    known = dict(
        zip([i.numpy().tobytes() for i in attributes.train.images], attributes.train.labels, strict=True)
    )
    assert all(
        torch.equal(known[i.numpy().tobytes()], label) for i, label in zip(*vars(few).values(), strict=True)
    )


def test_trades_needs_classes(attributes):
    message = "TRADES compares the probabilities of classes that exclude each other: use pgd."
    with pytest.raises(ValueError, match=re.escape(message)):
        run(attributes, method="trades", epsilon=0.1)


def test_representations_of_attributes_are_compared(trained, attributes):
    other = model_store.obtain(
        Recipe.on(attributes, "mlp", epochs=1), attributes, device="cpu", progress=False
    )
    for options in ({}, {"inputs": "adversarial", "attack": Attack(0.05, steps=2)}):
        table = compare_models([trained, other], attributes, "cka", **options, progress=False)
        assert table["value"].between(0, 1).all()


def test_analyses_that_need_classes_say_so(trained, attributes):
    def refused(what, call):
        message = f"{what} one class for each image; these images have 3 attributes each (multi-label data)."
        with pytest.raises(ValueError, match=re.escape(message)):
            call()

    other = model_store.obtain(
        Recipe.on(attributes, "mlp", epochs=1), attributes, device="cpu", progress=False
    )
    models = [trained, other]
    refused("agreement needs", lambda: compare_models(models, attributes, "agreement", progress=False))
    refused("by='class' needs", lambda: compare_groups(models, attributes, by="class", progress=False))
    refused("seeds and targets of different classes need", lambda: Pairs.draw(attributes, 5))
    refused("measuring stitches needs", lambda: Donor(trained.graph, attributes.test, Attack(0.1)))
    refused(
        "what images are taken for needs", lambda: adversarial_examples(models, attributes.test, Attack(0.1))
    )
    refused(
        "probes need", lambda: obtain_probes([trained], attributes, [ProbeOptions("ridge")], progress=False)
    )


# -- parts of photographs -----------------------------------------------------------------------------------

PARTS = Augmentation(resized_crop=True)


def ramps(height, width, count=400):
    """Images whose channels are the row and the column, from 0 to 1."""
    rows = ((torch.arange(height) + 0.5) / height).view(1, 1, -1, 1).expand(count, 1, height, width)
    columns = ((torch.arange(width) + 0.5) / width).view(1, 1, 1, -1).expand(count, 1, height, width)
    return torch.cat([rows, columns, rows], dim=1)


@pytest.mark.matrix
@pytest.mark.parametrize("shape", [(40, 40), (30, 50)], ids=["square", "wide"])
def test_random_parts_are_as_large_and_as_wide_as_torchvision_draws_them(shape):
    torch.manual_seed(0)
    found = augmented(ramps(*shape), PARTS)
    assert found.shape == (400, 3, *shape)
    height, width = shape
    middle_rows = found[:, 0, :, width // 2].double()
    middle_columns = found[:, 1, height // 2].double()
    # the slope inside is the share of the image that is seen
    tall = (middle_rows[:, height // 2 + 3] - middle_rows[:, height // 2 - 3]) / 6 * height
    wide = (middle_columns[:, width // 2 + 3] - middle_columns[:, width // 2 - 3]) / 6 * width
    area, ratio = tall * wide, wide * width / (tall * height)
    assert area.min() > 0.075
    assert area.max() <= 1.001
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    drawn = torch.tensor(
        [
            torchvision.transforms.RandomResizedCrop.get_params(
                torch.empty(3, 100 * height, 100 * width), (0.08, 1), (3 / 4, 4 / 3)
            )
            for _ in range(2000)
        ],
        dtype=torch.float64,
    )
    expected = drawn[:, 2] * drawn[:, 3] / (1e4 * height * width)
    for share in (0.1, 0.5, 0.9):
        assert area.quantile(share).item() == pytest.approx(expected.quantile(share).item(), abs=0.06)


def test_random_parts_lie_inside_and_anywhere():
    torch.manual_seed(1)
    found = augmented(ramps(40, 40), PARTS)
    assert found.min() >= 0.5 / 40 - 1e-5
    assert found.max() <= 1 - 0.5 / 40 + 1e-5
    assert (found[:, 0].diff(dim=1) >= -1e-5).all()  # nothing is turned over
    top = found[:, 0, 0, 0]
    assert top.min() < 0.05
    assert top.max() > 0.5


def test_random_parts_are_seeded_and_mirrored_too():
    images = ramps(20, 20, 50)
    torch.manual_seed(3)
    first = augmented(images, Augmentation(resized_crop=True, flip=True))
    torch.manual_seed(3)
    assert torch.equal(augmented(images, Augmentation(resized_crop=True, flip=True)), first)
    falling = (first[:, 1, 10, 0] > first[:, 1, 10, -1]).sum()
    assert 10 < falling < 40


def test_photographs_are_learned_from_their_parts(tiny_data):
    photographs = dataclasses.replace(tiny_data, augmentation=PARTS)
    plain, parts = run(tiny_data)[0], run(photographs)[0]
    assert not same(plain.state_dict(), parts.state_dict())
    assert same(run(photographs, augment=False)[0].state_dict(), plain.state_dict())
