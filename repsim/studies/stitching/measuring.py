"""The abilities of a stitched network, beside its donors, on test images and under attack."""

from __future__ import annotations

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from repsim.activations import LayerGraph
from repsim.attacks import Attack, autoattack, run_attack
from repsim.data import Split
from repsim.measures import MEASURES, PREDICTION_MEASURES, error_overlap
from repsim.studies.stitching.network import BATCH, StitchedNetwork
from repsim.support.devices import device_of
from repsim.support.labels import check_one_class
from repsim.training import accuracy, predict

OF_A_DONOR = (
    "accuracy",
    "robust_accuracy",
    "relative_accuracy",
    "relative_robust_accuracy",
    "transfer",
    "cross_entropy",
    "agreement",
    "both_right",
    "only_stitch_right",
    "only_donor_right",
    "both_wrong",
)
MEASURED = (
    *("accuracy", "robust_accuracy", "autoattack_accuracy", "cross_entropy"),
    *(f"{name}_{side}" for side in ("front", "end") for name in OF_A_DONOR),
    *(f"{name}_{where}" for name in ("cka", "distance") for where in ("before", "after", "logits")),
)  # what `measure_stitch` gives, in the order in which tables have it


class Donor:
    """A donor on test images: all that does not depend on what it is stitched to, made once."""

    def __init__(self, graph: LayerGraph, split: Split, attack: Attack, *, own_task: bool = True):
        """`own_task`: whether the images are of the data set that the donor was trained on."""
        check_one_class(split.labels, "measuring stitches needs")
        self.graph, self.split, self.attack, self.own_task = graph, split, attack, own_task
        self._values: dict[str, Tensor] = {}

    @cached_property
    def logits(self) -> Float[Tensor, "n classes"]:
        """The logits of the test images."""
        return predict(self.graph.network, self.split.images)

    @cached_property
    def adversarial(self) -> Float[Tensor, "n c h w"]:
        """Test images made to fool this network."""
        return run_attack(self.graph.network, self.split.images, self.split.labels, self.attack)

    @cached_property
    def accuracy(self) -> float:
        return _right(self.logits, self.split).float().mean().item()

    @cached_property
    def robust_accuracy(self) -> float:
        return accuracy(self.graph.network, self.adversarial, self.split.labels)

    def value(self, layer: str) -> Float[Tensor, "n ..."]:
        """A layer's values for the test images."""
        if layer not in self._values:
            self._values[layer] = _in_batches(self.graph.prefix(layer), self.split.images, self.graph)
        return self._values[layer]


def measure_stitch(
    stitched: StitchedNetwork,
    front: Donor,
    end: Donor,
    layer_front: str,
    layer_end: str,
    *,
    with_autoattack: bool = False,
) -> dict[str, float]:
    """Measure a stitched network on its donors' test images.

    Returns
    -------
    dict
        `accuracy`, `robust_accuracy` (under the donors' attack, made to fool the stitched network), each also
        as `…_front` and `…_end` of the donors and `relative_…_front` and `relative_…_end`, divided by them
        (NaN where a donor has none); `transfer_front` and `transfer_end`, accuracy on images made to fool a
        donor; `cross_entropy` with the labels, `cross_entropy_front` and `…_end` with the donors'
        probabilities, in nats; `agreement_front` and `…_end`; `both_right_…`, `only_stitch_right_…`,
        `only_donor_right_…` and `both_wrong_…`, shares of the images; linear CKA and mean squared difference
        with the end's own values, `cka_before` and `distance_before` the transform (NaN where shapes
        differ), `…_after` it, and `…_logits`. With `with_autoattack` also `autoattack_accuracy`.
    """
    split, attack = end.split, end.attack
    logits = predict(stitched, split.images)
    faster = stitched.faster(split.images[:2].to(device_of(stitched)))
    attacked = run_attack(faster, split.images, split.labels, attack)
    row = {
        "accuracy": _right(logits, split).float().mean().item(),
        "robust_accuracy": accuracy(faster, attacked, split.labels),
        "cross_entropy": F.cross_entropy(logits, split.labels).item(),
    }
    for side, donor in (("front", front), ("end", end)):
        row |= {f"{name}_{side}": value for name, value in _beside(donor, faster, logits, row).items()}
    if with_autoattack:
        images = autoattack(stitched, split.images, split.labels, attack.epsilon, attack.norm)
        row["autoattack_accuracy"] = accuracy(stitched, images, split.labels)
    taken, own = front.value(layer_front), end.value(layer_end)
    given = _in_batches(stitched.transform, taken, end.graph)
    same_shape = taken.shape == own.shape
    return row | {
        "cka_before": _cka(taken, own),
        "cka_after": _cka(given, own),
        "cka_logits": _cka(logits, end.logits),
        "distance_before": F.mse_loss(taken, own).item() if same_shape else math.nan,
        "distance_after": F.mse_loss(given, own).item(),
        "distance_logits": F.mse_loss(logits, end.logits).item(),
    }


def _beside(
    donor: Donor, stitched: StitchedNetwork, logits: Tensor, row: dict[str, float]
) -> dict[str, float]:
    """The columns of `OF_A_DONOR`; all undefined where the donor's answers are to another question."""
    if not donor.own_task or donor.logits.shape != logits.shape:
        return dict.fromkeys(OF_A_DONOR, math.nan)
    labels = donor.split.labels
    shares = error_overlap(logits, donor.logits, labels).set_index(["model_a", "model_b"])["share"]
    names = {
        "both_right": ("right", "right"),
        "only_stitch_right": ("right", "wrong"),
        "only_donor_right": ("wrong", "right"),
        "both_wrong": ("wrong", "wrong"),
    }
    return {
        "accuracy": donor.accuracy,
        "robust_accuracy": donor.robust_accuracy,
        "relative_accuracy": _ratio(row["accuracy"], donor.accuracy),
        "relative_robust_accuracy": _ratio(row["robust_accuracy"], donor.robust_accuracy),
        "transfer": accuracy(stitched, donor.adversarial, labels),
        "cross_entropy": F.cross_entropy(logits, donor.logits.softmax(1)).item(),
        "agreement": float(PREDICTION_MEASURES["agreement"](logits, donor.logits)),
        **{name: float(shares[key]) for name, key in names.items()},
    }


def _right(logits: Tensor, split: Split) -> Bool[Tensor, " n"]:
    return logits.argmax(1) == split.labels


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else math.nan


def _cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA; NaN where one of the two is the same for all images."""
    x, y = x.flatten(1), y.flatten(1)
    if (x == x[0]).all() or (y == y[0]).all():
        return math.nan
    return float(MEASURES["cka"](x, y))


def _in_batches(part: torch.nn.Module, values: Tensor, graph: LayerGraph) -> Tensor:
    device = device_of(graph.network)
    with torch.no_grad():
        return torch.cat([part(batch.to(device)).to(values.device) for batch in values.split(BATCH)])
