"""Labels that are classes, and labels that are attributes."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repsim.support.labels import as_labels, check_one_class, is_multilabel, label_loss, right, right_in_batch

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.5, 3.0, 0.2]])
CLASSES = torch.tensor([0, 2])
ATTRIBUTES = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


def test_which_labels_are_attributes():
    assert is_multilabel(ATTRIBUTES)
    assert not is_multilabel(CLASSES)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_classes_is_the_cross_entropy(reduction):
    found = label_loss(LOGITS, CLASSES, reduction=reduction)
    assert torch.equal(found, F.cross_entropy(LOGITS, CLASSES, reduction=reduction))


def test_the_loss_of_attributes_by_hand():
    probabilities = LOGITS.double().sigmoid()
    chance = torch.where(ATTRIBUTES == 1, probabilities, 1 - probabilities)
    of_image = -chance.log().mean(1)
    torch.testing.assert_close(label_loss(LOGITS, ATTRIBUTES).double(), of_image.mean())
    torch.testing.assert_close(label_loss(LOGITS, ATTRIBUTES, reduction="sum").double(), of_image.sum())


def test_what_is_right():
    assert right(LOGITS, CLASSES).tolist() == [1, 0]
    assert right(LOGITS, ATTRIBUTES).tolist() == pytest.approx([2 / 3, 2 / 3])
    undecided = right(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert undecided.tolist() == [0.5, 0]  # which is no


def test_one_hot_labels_are_classes():
    logits = torch.randn(24, 10, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(24) % 10
    one_hot = F.one_hot(classes, 10)
    for labels in (one_hot, one_hot.float(), one_hot.bool(), one_hot.numpy(), one_hot.double().numpy()):
        assert torch.equal(right(logits, labels), right(logits, classes))
    assert right(-torch.ones(24, 10), one_hot.float()).mean() == pytest.approx(3 / 24)  # as many zeros


def test_rows_of_a_batch_are_taken_as_they_are():
    """Of a few images with attributes, each may have one."""
    rows = ATTRIBUTES[:1]
    assert right_in_batch(LOGITS[:1], rows).tolist() == pytest.approx([2 / 3])
    assert torch.equal(as_labels(ATTRIBUTES)[:1], rows)


CLASSES_AS = {
    "int64": CLASSES,
    "int32": CLASSES.int(),
    "bytes": CLASSES.byte(),
    "array": CLASSES.numpy(),
    "uint16 in an array": CLASSES.numpy().astype(np.uint16),
    "list": [0, 2],
    "list of tensors": [torch.tensor(0), torch.tensor(2)],
    "column": CLASSES[:, None],
}


@pytest.mark.parametrize("labels", CLASSES_AS.values(), ids=CLASSES_AS)
def test_what_is_taken_for_classes(labels):
    found = as_labels(labels)
    assert found.dtype == torch.int64
    assert torch.equal(found, CLASSES)


def test_what_is_taken_for_attributes():
    assert as_labels(ATTRIBUTES).data_ptr() == ATTRIBUTES.data_ptr()
    for labels in (ATTRIBUTES.long(), ATTRIBUTES.bool(), ATTRIBUTES.tolist(), ATTRIBUTES.numpy()):
        found = as_labels(labels)
        assert found.dtype == torch.float32
        assert torch.equal(found, ATTRIBUTES)
    one = torch.tensor([[1.0], [0.0]])
    assert torch.equal(as_labels(one), one)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0.0, 2.0],
            "labels, one class each, must be whole numbers, not float32: give",
        ),
        ([0, -1], "labels must be classes, counted from 0; found -1."),
        ([[0.9, 0.1]], "labels of shape (1, 2) must be zeros and ones, found 0.9: soft labels"),
        (
            [[0, 2], [1, 0]],
            "labels of shape (2, 2) must be zeros and ones, found 2: soft labels",
        ),
        (torch.zeros(2, 2, 2), "labels must be one class for each image, (n,), or a 0 or 1 for each of its "),
        (torch.tensor(1), "labels must be one class for each image, (n,), or a 0 or 1 for each of its "),
    ],
)
def test_labels_that_are_refused(labels, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        as_labels(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.ma.masked_equal([0, 1, 2], 2),
            "labels must not be a NumPy masked array, whose mask",
        ),
        (["cat", "dog"], "labels must be numbers, each image's of one length: "),
        ([[0], [1, 2]], "labels must be numbers, each image's of one length: "),
        (np.array(["cat", "dog"]), "labels must be a torch tensor or a NumPy array of real numbers, not "),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_labels(labels, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        as_labels(labels)


def test_attributes_are_refused_where_classes_are_needed():
    check_one_class(CLASSES, "this needs")
    message = "this needs one class for each image; these images have 3 attributes each (multi-label data)."
    with pytest.raises(ValueError, match=re.escape(message)):
        check_one_class(ATTRIBUTES, "this needs")
