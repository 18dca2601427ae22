"""What a stitched network is trained to answer: every loss against the same loss by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repsim.studies.stitching import StitchOptions
from repsim.studies.stitching.targets import is_multilabel, make_targets, make_task

SOFT = ["soft_1", "soft_2", "soft_12", "soft_1_plus_2"]
LABELS = torch.tensor([0, 2, 1, 2, 0])
SEVERAL = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]]).float()
IMAGES = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))


class Answers(nn.Module):
    """A network that always answers the same, and counts how often it is asked."""

    def __init__(self, seed, scale=3.0):
        super().__init__()
        self.logits = nn.Parameter(scale * torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return 1 * self.logits[: len(images)]


@pytest.fixture
def donors():
    return Answers(1), Answers(2)


@pytest.fixture
def logits():
    return 2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(3))


def loss_of(logits, donors, labels=LABELS, *, reduction="mean", **options):
    options = StitchOptions(**options)
    task = make_task(options, is_multilabel(labels))
    return task(logits, make_targets(options, *donors, IMAGES, labels), reduction=reduction).item()


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def cross_entropy(logits, wanted, temperature=1.0):
    """The mean over images of −Σ p log q, each written out."""
    total = 0.0
    for row, p in zip(logits.tolist(), wanted, strict=True):
        q = softmax(row, temperature)
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return total / len(logits)


def binary_cross_entropy(logits, wanted, temperature=1.0):
    """The mean over images and classes of −p log q − (1 − p) log (1 − q)."""
    terms = []
    for row, ps in zip(logits.tolist(), wanted, strict=True):
        for value, p in zip(row, ps, strict=True):
            q = sigmoid(value / temperature)
            terms.append(-p * math.log(q) - (1 - p) * math.log(1 - q))
    return sum(terms) / len(terms)


def probabilities(donor, temperature=1.0):
    return [softmax(row, temperature) for row in donor.tolist()]


def chances(donor, temperature=1.0):
    return [[sigmoid(value / temperature) for value in row] for row in donor.tolist()]


# one class for each image


def test_hard_targets_are_the_labels(logits, donors):
    one_hot = [[float(label == place) for place in range(3)] for label in LABELS]
    assert loss_of(logits, donors) == pytest.approx(cross_entropy(logits, one_hot), rel=1e-6)
    assert loss_of(logits, donors) == F.cross_entropy(logits, LABELS).item()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_by_hand(logits, donors, temperature):
    front, end = (donor.logits.detach() for donor in donors)

    def by_hand(donor):
        return cross_entropy(logits, probabilities(donor, temperature), temperature)

    expected = {
        "soft_1": by_hand(front),
        "soft_2": by_hand(end),
        "soft_12": (by_hand(front) + by_hand(end)) / 2,
        "soft_1_plus_2": by_hand((front + end) / 2),
    }
    for targets, value in expected.items():
        found = loss_of(logits, donors, targets=targets, temperature=temperature)
        assert found == pytest.approx(value, rel=1e-5), targets
    assert len({round(value, 3) for value in expected.values()}) == 4  # all of them differ


def test_the_mean_of_two_losses_has_other_gradients_than_one_loss_on_averaged_logits(logits, donors):
    """The first pulls to the mean of both probabilities, the second to the probabilities of the mean."""
    front, end = (donor.logits.detach() for donor in donors)
    wanted = {
        "soft_12": (front.softmax(1) + end.softmax(1)) / 2,
        "soft_1_plus_2": ((front + end) / 2).softmax(1),
    }
    for targets, probability in wanted.items():
        options = StitchOptions(targets=targets)
        moved = logits.clone().requires_grad_()
        make_task(options, False)(moved, make_targets(options, *donors, IMAGES, LABELS)).backward()
        torch.testing.assert_close(moved.grad, (logits.softmax(1) - probability) / 5)
    assert (wanted["soft_12"] - wanted["soft_1_plus_2"]).abs().max() > 0.1


@pytest.mark.parametrize("multilabel", [False, True])
def test_gradients_fall_with_the_square_of_the_temperature(logits, donors, multilabel):
    """Times T², the gradient at high T is that of the squared difference, which has no temperature."""

    def gradient(temperature):
        options = StitchOptions(targets="soft_2", temperature=temperature)
        moved = logits.clone().requires_grad_()
        make_task(options, multilabel)(moved, make_targets(options, *donors, IMAGES, LABELS)).backward()
        return moved.grad

    difference = logits - donors[1].logits.detach()
    if multilabel:
        expected = difference / 4 / 3 / 5
    else:
        expected = (difference - difference.mean(1, keepdim=True)) / 3 / 5
    torch.testing.assert_close(1000**2 * gradient(1000.0), expected, rtol=0.02, atol=1e-3)
    assert (gradient(1.0) - expected).abs().max() > 0.01


# errata 7


@pytest.mark.parametrize("targets", SOFT)
@pytest.mark.parametrize("size", [1e3, 1e8])
def test_confident_answers_are_numbers(targets, size):
    """Probabilities that round to 0 have a logarithm of −∞, and 0 · −∞ is none."""
    certain = size * torch.eye(3)[LABELS]
    wrong = size * torch.eye(3)[(LABELS + 1) % 3]
    for own, theirs in ((certain, certain), (certain, wrong), (wrong, certain)):
        donor = Answers(0)
        donor.logits.data = theirs
        moved = own.clone().requires_grad_()
        options = StitchOptions(targets=targets)
        loss = make_task(options, False)(moved, make_targets(options, donor, donor, IMAGES, LABELS))
        loss.backward()
        assert loss.item() == pytest.approx(0 if own is theirs else size)
        assert moved.grad.isfinite().all()


@pytest.mark.parametrize("classes", [3, 30])
def test_the_loss_is_divided_by_images_and_not_by_classes_too(classes):
    generator = torch.Generator().manual_seed(0)
    logits, theirs = (torch.randn(5, classes, generator=generator) for _ in range(2))
    donor = Answers(0)
    donor.logits.data = theirs
    found = loss_of(logits, (donor, donor), targets="soft_2")
    assert found == F.cross_entropy(logits, theirs.softmax(1)).item()
    by_hand = -(theirs.softmax(1) * logits.softmax(1).log()).sum() / 5
    assert found == pytest.approx(by_hand.item(), rel=1e-5)


# several labels


def test_several_hard_labels_by_hand(logits, donors):
    found = loss_of(logits, donors, SEVERAL)
    assert found == pytest.approx(binary_cross_entropy(logits, SEVERAL.tolist()), rel=1e-5)
    assert found == pytest.approx(F.binary_cross_entropy_with_logits(logits, SEVERAL).item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_several_soft_labels_by_hand(logits, donors, temperature):
    front, end = (donor.logits.detach() for donor in donors)

    def by_hand(donor):
        return binary_cross_entropy(logits, chances(donor, temperature), temperature)

    expected = {
        "soft_1": by_hand(front),
        "soft_2": by_hand(end),
        "soft_12": (by_hand(front) + by_hand(end)) / 2,
        "soft_1_plus_2": by_hand((front + end) / 2),
    }
    for targets, value in expected.items():
        found = loss_of(logits, donors, SEVERAL, targets=targets, temperature=temperature)
        assert found == pytest.approx(value, rel=1e-5), targets


@pytest.mark.parametrize("targets", ["hard", *SOFT])
def test_confident_answers_to_several_labels_are_numbers(donors, targets):
    logits = 1e6 * (1 - 2 * SEVERAL)
    for donor in donors:
        donor.logits.data *= 1e6
    assert math.isfinite(loss_of(logits, donors, SEVERAL, targets=targets))


# sums and means


@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("targets", ["hard", *SOFT])
def test_a_sum_is_the_sum_over_batches(logits, donors, labels, targets):
    """What one image gains from an attack must not depend on how many others are in its batch."""
    options = StitchOptions(targets=targets)
    task = make_task(options, is_multilabel(labels))
    wanted = make_targets(options, *donors, IMAGES, labels)
    parts = [task(logits[i : i + 2], wanted[i : i + 2], reduction="sum").item() for i in (0, 2, 4)]
    assert sum(parts) == pytest.approx(task(logits, wanted, reduction="sum").item(), rel=1e-5)


# donors


@pytest.mark.parametrize(
    ("targets", "calls", "shape"),
    [
        ("hard", (0, 0), (5,)),
        ("soft_1", (1, 0), (5, 1, 3)),
        ("soft_2", (0, 1), (5, 1, 3)),
        ("soft_12", (1, 1), (5, 2, 3)),
        ("soft_1_plus_2", (1, 1), (5, 1, 3)),
    ],
)
def test_only_the_donors_that_are_needed_run(donors, targets, calls, shape):
    found = make_targets(StitchOptions(targets=targets), *donors, IMAGES, LABELS)
    assert tuple(donor.calls for donor in donors) == calls
    assert tuple(found.shape) == shape
    assert not found.requires_grad


def test_targets_are_the_donors_own_logits(donors):
    found = {
        targets: make_targets(StitchOptions(targets=targets), *donors, IMAGES, LABELS) for targets in SOFT
    }
    front, end = (donor.logits.detach() for donor in donors)
    assert torch.equal(found["soft_1"][:, 0], front)
    assert torch.equal(found["soft_2"][:, 0], end)
    assert torch.equal(found["soft_12"], torch.stack([front, end], dim=1))
    torch.testing.assert_close(found["soft_1_plus_2"][:, 0], front / 2 + end / 2)


def test_soft_targets_do_not_look_at_the_labels(logits, donors):
    other = (LABELS + 1) % 3
    assert loss_of(logits, donors, targets="soft_2") == loss_of(logits, donors, other, targets="soft_2")
    assert loss_of(logits, donors) != loss_of(logits, donors, other)
