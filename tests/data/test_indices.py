"""Subsets by files of row indices."""

import numpy as np
import pytest
import torch

from repsim.data import load_data
from repsim.data.indices import read_rows

ROWS = [7, 3, 1200, 0]


def write(path, content):
    if path.suffix == ".npy":
        np.save(path, np.array(ROWS, dtype=np.int32))
    else:
        path.write_text(content)
    return path


@pytest.mark.matrix("rows.csv", "rows.npy")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.txt", "7\n3\n\n1200\n0\n"),
        ("rows.csv", "index\n7\n3\n1200\n0\n"),
        ("unnamed.csv", "row\r\n7\r\n3\r\n1200\r\n0\r\n"),
        ("columns.csv", "class, index\ncat,7\ndog,3\ncat, 1200\ndog,0\n"),
        ("rows.npy", None),
    ],
)
def test_rows_are_kept_in_the_order_of_the_file(tmp_path, name, content):
    file = write(tmp_path / name, content)
    whole = load_data("digits")
    dataset = load_data("digits", train_indices=file, test_size=20)
    assert torch.equal(dataset.train.images, whole.train.images[ROWS])
    assert torch.equal(dataset.train.labels, whole.train.labels[ROWS])
    assert torch.equal(dataset.test.images, whole.test.subset(20).images)
    chosen = load_data("digits", test_indices=str(write(tmp_path / "test.txt", "4\n2\n")))
    assert torch.equal(chosen.test.images, whole.test.images[[4, 2]])
    assert torch.equal(chosen.train.images, whole.train.images)


def test_the_fingerprint_follows_the_rows(tmp_path):
    def fingerprint(**files):
        written = {
            f"{part}_indices": write(tmp_path / f"{part}.txt", "\n".join(map(str, rows)))
            for part, rows in files.items()
        }
        return load_data("digits", **written).fingerprint

    assert fingerprint() == "1297x1x16x16"
    choices = [{"train": [1, 2, 3]}, {"train": [3, 2, 1]}, {"train": [1, 2, 4]}, {"test": [1, 2, 3]}]
    choices += [{"train": [1, 2, 3], "test": [1, 2, 3]}]
    found = [fingerprint(**choice) for choice in choices]
    assert len(set(found)) == len(found)
    assert found[0].startswith("3x1x16x16-rows")
    assert fingerprint(**choices[0]) == found[0]
    (tmp_path / "same.csv").write_text("index\n1\n2\n3\n")
    assert load_data("digits", train_indices=tmp_path / "same.csv").fingerprint == found[0]


def test_sizes_choose_among_the_rows(tmp_path):
    rows = write(tmp_path / "rows.txt", "\n".join(map(str, range(300, 400))))
    whole, dataset = load_data("digits"), load_data("digits", train_indices=rows, train_size=10)
    inside = {row.numpy().tobytes() for row in whole.train.images[300:400]}
    assert {row.numpy().tobytes() for row in dataset.train.images} < inside
    assert dataset.train.labels.bincount().tolist() == [1] * 10


def test_rows_of_a_folder_are_class_by_class(pets, tmp_path):
    rows = write(tmp_path / "rows.txt", "4\n0\n")
    dataset = load_data(f"folder:{pets}", train_indices=rows)
    assert (dataset.train.images[:, 0, 5, 5] * 255).round().int().tolist() == [111, 10]
    assert dataset.train.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "0\n5\n", "a.txt has 5, where rows go from 0 to 4 (1 of 2 indices are out of range)."),
        ("a.txt", "-1\n9\n", "a.txt has -1, where rows go from 0 to 4 (2 of 2 indices are out of range)."),
        (
            "a.txt",
            "3\n1\n3\n3\n",
            "a.txt has 3 3 times; each row may be there once (1 are there more often).",
        ),
        ("a.txt", "", "a.txt holds no index."),
        ("a.csv", "index\n", "a.csv holds no index."),
        (
            "a.txt",
            "1\n2.5\n",
            "a.txt is no list of row indices, whole numbers from 0 on (invalid literal for int() with "
            "base 10: '2.5').",
        ),
        (
            "a.csv",
            "row,class\n1,2\n",
            "a.csv is no list of row indices, whole numbers from 0 on (none of its columns row, class is "
            "called index).",
        ),
        (
            "a.csv",
            "1,2\n",
            "a.csv is no list of row indices, whole numbers from 0 on (it has several columns and no header "
            "that says which is the index).",
        ),
    ],
)
def test_files_that_hold_no_rows(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        read_rows(tmp_path / name, "test_indices", 5)
    assert str(refusal.value) == f"test_indices: {tmp_path}/{message}"


@pytest.mark.parametrize("values", [np.array([0.0, 1.0]), np.array([[0, 1]])], ids=["floats", "a table"])
def test_arrays_that_hold_no_rows(tmp_path, values):
    np.save(tmp_path / "rows.npy", values)
    with pytest.raises(ValueError, match=r"rows\.npy is no list of row indices, .*\(it holds "):
        read_rows(tmp_path / "rows.npy", "train_indices", 5)


def test_pickles_and_missing_files_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([0, None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"rows\.npy is no list of row indices"):
        load_data("digits", train_indices=tmp_path / "rows.npy")
    with pytest.raises(ValueError, match=r"^test_indices: .*gone\.txt is no file\.$"):
        load_data("digits", test_indices=tmp_path / "gone.txt")
