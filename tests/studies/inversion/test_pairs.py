"""Pairs are of different classes, drawn once, kept, and read from then on."""

import dataclasses
import re

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repsim.data import Split, load_data
from repsim.studies.inversion import Pairs
from repsim.support import artifacts, paths

COUNT = 12
COLUMNS = ["pair", "seed_index", "target_index", "seed_class", "target_class"]


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def relabelled(dataset, labels):
    """The same images, of other classes."""
    return dataclasses.replace(dataset, test=Split(dataset.test.images, labels))


def indices(*values):
    return torch.tensor(values)


def alike(one, other):
    return torch.equal(one.seed_index, other.seed_index) and torch.equal(one.target_index, other.target_index)


def kept(dataset):
    """Files of pairs in the test's own folder."""
    return sorted((paths.data() / "inverted" / dataset.slug).glob("*.csv"))


def edited(path, **columns):
    """Change columns of a kept table, or leave out those that are None."""
    table = pd.read_csv(path)
    for name, values in columns.items():
        if values is None:
            del table[name]
        else:
            table[name] = values
    table.to_csv(path, index=False)
    path.with_suffix(".sha256").unlink()  # as tables had none at first


@pytest.fixture
def unlike(tiny_data):
    """Two images of one class, and one of another."""
    labels = tiny_data.test.labels
    same = (labels == labels[0]).nonzero().flatten()
    return int(same[0]), int(same[1]), int((labels != labels[0]).nonzero()[0])


# drawn


@given(count=st.integers(1, 60), seed=st.integers(0, 2**31))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pairs_are_of_two_classes_and_no_image_is_a_target_twice(tiny_data, count, seed):
    pairs = Pairs.draw(tiny_data, count, seed)
    labels = tiny_data.test.labels
    assert len(pairs) == len(pairs.seed_index) == len(pairs.target_index) == count
    assert (labels[pairs.seed_index] != labels[pairs.target_index]).all()
    assert len(pairs.target_index.unique()) == count
    assert (pairs.dataset, pairs.fingerprint) == (tiny_data.slug, tiny_data.fingerprint)


@pytest.mark.parametrize("seed", range(5))
def test_one_image_of_a_second_class_is_enough(tiny_data, seed):
    labels = torch.zeros(60, dtype=torch.long)
    labels[7] = 1
    pairs = Pairs.draw(relabelled(tiny_data, labels), 60, seed)
    assert (pairs.seed_index[pairs.target_index != 7] == 7).all()
    assert pairs.seed_index[pairs.target_index == 7] != 7


def test_seeds_are_of_every_other_class_about_as_often_as_it_has_images():
    data = load_data("digits")
    labels, counts = data.test.labels, torch.zeros(10, 10)
    for seed in range(20):
        pairs = Pairs.draw(data, len(labels), seed)
        of_pair = (labels[pairs.target_index], labels[pairs.seed_index])
        counts.index_put_(of_pair, torch.ones(len(labels)), accumulate=True)
    images = labels.bincount().float()
    expected = images[:, None] * images * 20 / (500 - images[:, None])
    expected.fill_diagonal_(0)
    assert counts.sum() == 20 * 500
    assert ((counts - expected).abs() <= 5 * expected.sqrt()).all()


def test_the_global_random_state_is_neither_used_nor_changed(tiny_data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pairs = Pairs.draw(tiny_data, COUNT)
    noise = pairs.noise(tiny_data.test)
    assert torch.equal(torch.get_rng_state(), before)
    kept(tiny_data)[0].unlink()
    torch.manual_seed(4)
    again = Pairs.draw(tiny_data, COUNT)
    assert alike(again, pairs)
    assert torch.equal(again.noise(tiny_data.test), noise)


@pytest.mark.parametrize("count", [0, -1, 61])
def test_more_pairs_than_images_or_none(tiny_data, count):
    with refused(f"digits has 60 test images, so that pairs can be 1 to 60, not {count}."):
        Pairs.draw(tiny_data, count)


def test_images_of_one_class(tiny_data):
    with refused("pairs need test images of two classes at least."):
        Pairs.draw(relabelled(tiny_data, torch.full((60,), 3)), COUNT)


# kept


def test_the_draw_is_read_from_its_file_the_second_time(tiny_data):
    drawn = Pairs.draw(tiny_data, COUNT)
    (path,) = kept(tiny_data)
    edited(path, seed_index=drawn.seed_index.roll(1).numpy(), target_index=drawn.target_index.roll(1).numpy())
    read = Pairs.draw(tiny_data, COUNT)
    assert torch.equal(read.target_index, drawn.target_index.roll(1))
    path.unlink()
    again = Pairs.draw(tiny_data, COUNT)
    assert alike(again, drawn)
    assert again.address == drawn.address
    assert kept(tiny_data) == [path]


def test_other_test_images_of_the_same_number_have_pairs_of_their_own(tiny_data):
    """Their training images, and so their fingerprint, are the same."""
    first = Pairs.draw(tiny_data, 60)
    other = dataclasses.replace(
        tiny_data, test=Split(tiny_data.test.images.flip(0), tiny_data.test.labels.flip(0))
    )
    second = Pairs.draw(other, 60)
    assert not alike(first, second)
    assert len(kept(tiny_data)) == 2


def test_what_is_written_is_read(tiny_data, tmp_path):
    pairs = Pairs.draw(tiny_data, COUNT)
    path = tmp_path / "elsewhere" / "mine.csv"
    pairs.write(path, tiny_data)
    found = Pairs.read(path, tiny_data)
    assert alike(found, pairs)
    assert found.address == pairs.address
    pd.testing.assert_frame_equal(
        pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[3:], str)), found.table(tiny_data)
    )
    assert [file.name for file in path.parent.iterdir()] == ["mine.csv"]


def test_a_table_with_two_columns_is_enough(tiny_data, tmp_path, unlike):
    first, _, other = unlike
    path = tmp_path / "mine.csv"
    path.write_text(f"target_index,seed_index\n{first},{other}\n")
    pairs = Pairs.read(path, tiny_data)
    assert (pairs.seed_index.tolist(), pairs.target_index.tolist()) == ([other], [first])


def test_a_kept_file_with_a_pair_of_one_class_is_refused(tiny_data, unlike):
    Pairs.draw(tiny_data, 1)
    first, second, _ = unlike
    edited(kept(tiny_data)[0], seed_index=[first], target_index=[second])
    with pytest.raises(
        ValueError, match=r"^seed and target must be of different classes.*pair 0 \(of 1 such\)"
    ):
        Pairs.draw(tiny_data, 1)


def test_a_kept_file_with_an_index_that_is_out_of_range_is_refused(tiny_data):
    Pairs.draw(tiny_data, 1)
    edited(kept(tiny_data)[0], target_index=[60])
    with refused("target_index has 60, but digits has 60 test images."):
        Pairs.draw(tiny_data, 1)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\x00\x80",
        b"seed,target\n1,2\n",
        b"seed_index\n1\n",
        b"seed_index,target_index\n1,2\n3\n",
        b"seed_index,target_index\n1,2\n3,4,5\n",
        b"seed_index,target_index\n1,2.5\n",
        b"seed_index,target_index\n1,two\n",
        b'seed_index,target_index\n1,"2\n',
    ],
)
def test_a_damaged_table(tiny_data, text):
    Pairs.draw(tiny_data, COUNT)
    (path,) = kept(tiny_data)
    path.write_bytes(text)
    path.with_suffix(".sha256").unlink()
    message = f"{path} is no table of pairs (columns seed_index and target_index): "
    with pytest.raises(artifacts.DamagedArtifact, match=f"^{re.escape(message)}"):
        Pairs.draw(tiny_data, COUNT)


def test_a_kept_file_that_was_altered_is_refused(tiny_data):
    pairs = Pairs.draw(tiny_data, COUNT)
    (path,) = kept(tiny_data)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        path.write_bytes(damaged)
        message = f"{path} is damaged or was altered (its SHA-256 is not that of {path.stem}.sha256): remove "
        with pytest.raises(artifacts.DamagedArtifact, match=f"^{re.escape(message)}{path.name} to make it"):
            Pairs.draw(tiny_data, COUNT)
    path.unlink()
    assert alike(Pairs.draw(tiny_data, COUNT), pairs)
    assert path.read_bytes() == whole


def test_a_kept_file_without_a_checksum_that_has_lost_its_last_lines_is_damaged(tiny_data):
    Pairs.draw(tiny_data, COUNT)
    (path,) = kept(tiny_data)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-4]))
    path.with_suffix(".sha256").unlink()
    with pytest.raises(artifacts.DamagedArtifact):
        Pairs.draw(tiny_data, COUNT)


# chosen


def test_pairs_of_your_own(tiny_data, unlike):
    first, second, other = unlike
    pairs = Pairs.of(tiny_data, indices(first, second, other), indices(other, other, first))
    assert len(pairs) == 3
    split = tiny_data.test
    assert torch.equal(pairs.seeds(split), split.images[[first, second, other]])
    assert torch.equal(pairs.targets(split), split.images[[other, other, first]])


def test_pairs_of_one_class(tiny_data, unlike):
    first, second, other = unlike
    name = tiny_data.classes[tiny_data.test.labels[first]]
    with refused(
        "seed and target must be of different classes, or the seed may hold already what the target is known "
        f"by: pair 1 (of 2 such) is {first} and {second}, both {name!r}."
    ):
        Pairs.of(tiny_data, indices(other, first, other), indices(first, second, other))


@pytest.mark.parametrize(("name", "wrong"), [("seed_index", 60), ("target_index", 99), ("target_index", -1)])
def test_an_index_that_is_out_of_range(tiny_data, unlike, name, wrong):
    first, _, other = unlike
    columns = {"seed_index": indices(first), "target_index": indices(other), name: indices(wrong)}
    with refused(f"{name} has {wrong}, but digits has 60 test images."):
        Pairs.of(tiny_data, **columns)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("seed_index", "target_index"),
    [
        (torch.tensor([0.0]), indices(3)),
        (indices(0), torch.tensor([3.0])),
        (torch.tensor([False]), torch.tensor([True])),
        (torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)),
        (torch.tensor([]), torch.tensor([])),
    ],
)
def test_indices_that_are_no_whole_numbers_or_none(tiny_data, seed_index, target_index):
    with refused("pairs are indices of test images: whole numbers, and one pair at least."):
        Pairs.of(tiny_data, seed_index, target_index)


# told apart


def test_addresses_are_equal_for_equal_pairs_alone(tiny_data):
    pairs = Pairs.draw(tiny_data, COUNT)
    assert Pairs.of(tiny_data, pairs.seed_index.clone(), pairs.target_index.clone()).address == pairs.address
    others = [
        Pairs.of(tiny_data, pairs.target_index, pairs.seed_index),
        Pairs.of(tiny_data, pairs.seed_index.flip(0), pairs.target_index.flip(0)),
        Pairs.of(tiny_data, pairs.seed_index[:-1], pairs.target_index[:-1]),
        dataclasses.replace(pairs, dataset="shapes"),
        dataclasses.replace(pairs, fingerprint="100x1x16x16"),
        dataclasses.replace(pairs, content="0" * 12),
        Pairs.draw(tiny_data, COUNT, seed=1),
    ]
    assert len({pairs.address, *(other.address for other in others)}) == len(others) + 1


def test_the_table_says_which_image_and_which_class(tiny_data):
    pairs = Pairs.draw(tiny_data, COUNT)
    table = pairs.table(tiny_data)
    labels = tiny_data.test.labels
    assert list(table.columns) == COLUMNS
    assert table["pair"].tolist() == list(range(COUNT))
    assert table["seed_index"].tolist() == pairs.seed_index.tolist()
    assert table["target_index"].tolist() == pairs.target_index.tolist()
    for side in ("seed", "target"):
        expected = [tiny_data.classes[labels[index]] for index in table[f"{side}_index"]]
        assert table[f"{side}_class"].tolist() == expected
    assert (table["seed_class"] != table["target_class"]).all()


# noise


def test_noise_is_uniform_pixels_one_image_for_each_target(tiny_data):
    pairs = Pairs.draw(tiny_data, 60)
    noise = pairs.noise(tiny_data.test)
    assert noise.shape == pairs.targets(tiny_data.test).shape
    assert noise.min() >= 0
    assert noise.max() <= 1
    share = noise.flatten().histc(10, 0, 1) / noise.numel()
    assert (share - 0.1).abs().max() < 0.01
    assert not torch.equal(noise[0], noise[1])


def test_pairs_are_of_the_images_that_they_were_drawn_from_and_of_no_others(tiny_data):
    pairs = Pairs.draw(tiny_data, 20)
    assert torch.equal(pairs.targets(tiny_data.test), tiny_data.test.images[pairs.target_index])
    assert torch.equal(pairs.seeds(tiny_data.test), tiny_data.test.images[pairs.seed_index])
    for other in (tiny_data.train, tiny_data.test.subset(10)):
        for images in (pairs.seeds, pairs.targets):
            message = f"these {len(other)} images are not those of digits that the pairs were drawn from."
            with pytest.raises(ValueError, match=re.escape(message)):
                images(other)
