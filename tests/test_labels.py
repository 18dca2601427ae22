"""Labels that are classes, and labels that are attributes."""

import re

import pytest
import torch
import torch.nn.functional as F

from repsim.labels import check_one_class, is_multilabel, label_loss, right

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
    assert right(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])).tolist() == [0.5]  # undecided is no


def test_attributes_are_refused_where_classes_are_needed():
    check_one_class(CLASSES, "this needs")
    message = "this needs one class for each image; these images have 3 attributes each (multi-label data)."
    with pytest.raises(ValueError, match=re.escape(message)):
        check_one_class(ATTRIBUTES, "this needs")
