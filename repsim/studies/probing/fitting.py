"""Fit a linear probe: least squares or logistic regression to the minimum, or the published epochs of Adam.

The first two work in the principal directions of the features, of which there are no more than inputs, and
which scale and correlations of the features do not touch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from repsim.studies.probing.options import ProbeOptions
from repsim.support.labels import LabelSource, as_labels, check_one_class
from repsim.training.optimization import Diverged

PENALTIES = tuple(10.0**power for power in range(-8, 3))  # that `ridge` chooses among
LEAST_RATE = 1e-6  # at which `adam` ends
TOLERANCE = 1e-5  # of `logistic`: the greatest slope of the mean loss that is taken for 0
MOST_STEPS = 500
LEFT = 10  # times the tolerance: a greater slope is said


class NotAtMinimum(UserWarning):
    """A probe is worse than it could be."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of representations.

    Attributes
    ----------
    weight, bias
        Logits are features @ weight.T + bias.
    penalty
        That was used; None of `adam`.
    """

    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    penalty: float | None

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Logits of representations as the probe was fitted to, in float32."""
        return F.linear(features.float(), self.weight, self.bias)

    def accuracy(self, features: Float[Tensor, "n d"], labels: LabelSource) -> float:
        """Share of inputs whose greatest logit is their label's."""
        return float((self.logits(features).argmax(1) == _classes(labels, features)).double().mean())


def fit_probe(
    features: Float[Tensor, "n d"],
    labels: LabelSource,
    classes: int,
    options: ProbeOptions | None = None,
) -> Probe:
    """A linear probe of features for the classes of their inputs.

    Parameters
    ----------
    features
        Of the training inputs, one row for each.
    labels
        One class for each input, as `as_labels` takes them.
    classes
        How many there are; labels are below it.

    Raises
    ------
    ValueError
        Features are not finite or do not vary, or labels do not fit or are all the same.
    Diverged
        The loss of `adam` is no number any more.
    """
    options = options or ProbeOptions()
    labels = _classes(labels, features)
    if len(features) != len(labels):
        raise ValueError(f"each input needs one label, got {len(features)} inputs and {len(labels)} labels.")
    if features.dim() != 2 or not features.shape[1]:
        raise ValueError(f"features are (n, d), one unit at least; got shape {tuple(features.shape)}.")
    if not features.isfinite().all():
        raise ValueError("features have values that are not finite (NaN or infinite).")
    if not len(labels) or labels.max() >= classes:
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, one at least.")
    if len(labels.unique()) < 2:
        raise ValueError("a probe tells classes apart: all labels are the same.")
    if (features == features[:1]).all():
        raise ValueError("features do not vary: all inputs have the same.")
    features = features.detach()
    if options.kind == "adam":
        with torch.inference_mode(False):  # gradients, also where the caller has switched them off
            return _adam(features, labels, classes, options)
    principal = _principal(features)
    targets = F.one_hot(labels, classes)
    fit = _ridge if options.kind == "ridge" else _logistic
    weight, bias, penalty = fit(principal, targets, options.penalty)
    weight = (principal.directions @ weight).T
    return Probe(weight.float(), (bias - weight @ principal.mean).float(), penalty)


def _classes(labels: LabelSource, features: Tensor) -> Int[Tensor, " n"]:
    """Labels as classes, where the features are."""
    labels = as_labels(labels)
    check_one_class(labels, "a probe needs")
    return labels.to(features.device)


@dataclass(frozen=True, eq=False)
class _Principal:
    """Centred features in their principal directions."""

    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d r"]
    scores: Float[Tensor, "n r"]
    variances: Float[Tensor, " r"]
    scale: float  # the mean variance of a feature


def _principal(features: Float[Tensor, "n d"]) -> _Principal:
    """Principal directions in float64, from the smaller of the two matrices of inner products."""
    values = features.double()
    mean = values.mean(0)
    centred = values - mean
    n, width = centred.shape
    scale = float(centred.square().sum() / (n * width))
    product = centred.T @ centred if width <= n else centred @ centred.T
    squares, vectors = torch.linalg.eigh(product)
    there = squares > squares[-1] * max(n, width) * torch.finfo(squares.dtype).eps
    squares, vectors = squares[there], vectors[:, there]
    if width <= n:
        directions, scores = vectors, centred @ vectors
    else:
        scores = vectors * squares.sqrt()
        directions = centred.T @ (vectors / squares.sqrt())
    return _Principal(mean, directions, scores, squares / n, scale)


def _ridge(
    principal: _Principal, targets: Int[Tensor, "n c"], penalty: float | None
) -> tuple[Tensor, Tensor, float]:
    """Weights in principal directions, bias and penalty. Leaving out one input at a time is a formula."""
    share = targets.double().mean(0)
    rest = targets - share
    n = len(rest)
    moments = principal.scores.T @ rest / n
    # What an input is left of when the others predict it: 1 − its leverage, without the difference of nearly
    # equal numbers that this is where there are more features than inputs.
    along = principal.scores.square() / (n * principal.variances)
    across = (1 - 1 / n - along.sum(1)).clamp_min(0)

    def left_out(candidate: float) -> float:
        added = candidate * principal.scale
        shrink = 1 / (principal.variances + added)
        error = rest - principal.scores @ (shrink[:, None] * moments)
        kept = across + along @ (added * shrink)
        return float((error / kept[:, None]).square().sum())

    chosen = penalty if penalty is not None else min(PENALTIES, key=left_out)
    shrink = 1 / (principal.variances + chosen * principal.scale)
    return shrink[:, None] * moments, share, chosen


def _logistic(
    principal: _Principal, targets: Int[Tensor, "n c"], penalty: float
) -> tuple[Tensor, Tensor, float]:
    """Weights in principal directions, bias and penalty, by L-BFGS.

    Directions are divided by their spread, as far as it is more than the mean one: then the loss is about as
    steep in all of them, and the number of steps hardly depends on the features. In float32: steps decide
    nothing that rounding does.
    """
    stretch = 1 / (principal.variances + principal.scale).sqrt()
    scores = (principal.scores * stretch).float()
    across = scores.T.contiguous()  # classes and directions down, inputs across: a fifth of the time
    shrink = (penalty * principal.scale * stretch.square()).float()
    hot = targets.T.float().contiguous()
    n = len(scores)
    weights = torch.zeros(len(hot), scores.shape[1] + 1, device=scores.device)  # the last column is the bias
    weights[:, -1] = hot.mean(1).clamp_min(1 / n).log()
    weights.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=MOST_STEPS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def loss() -> Tensor:
        """The gradient by hand takes half the time of autograd's."""
        inner, bias = weights[:, :-1], weights[:, -1:]
        log_probability = torch.addmm(bias, inner, across).log_softmax(0)
        pull = inner * shrink
        value = (inner * pull).sum() / 2 - torch.dot(log_probability.flatten(), hot.flatten()) / n
        error = log_probability.exp_().sub_(hot).div_(n)
        weights.grad = torch.cat([error @ scores + pull, error.sum(1, keepdim=True)], dim=1)
        return value

    optimizer.step(loss)
    if (slope := float(weights.grad.abs().max())) > LEFT * TOLERANCE:
        warnings.warn(
            f"a logistic probe is not at its minimum after {MOST_STEPS} steps: its loss has a slope of "
            f"{slope:.1g} left. Raise penalty (now {penalty:g}).",
            NotAtMinimum,
            stacklevel=4,
        )
    found = weights.detach().double()
    return (found[:, :-1] * stretch).T, found[:, -1], penalty


def _adam(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int, options: ProbeOptions
) -> Probe:
    """The published loop. Its end is the probe; published is the best epoch on validation inputs."""
    features = features.float()
    generator = torch.Generator().manual_seed(options.seed)
    reach = features.shape[1] ** -0.5  # as torch initialises linear layers
    shapes = ((classes, features.shape[1]), (classes,))
    weight, bias = (
        ((2 * torch.rand(shape, generator=generator) - 1) * reach).to(features.device).requires_grad_()
        for shape in shapes
    )
    optimizer = torch.optim.Adam([weight, bias], options.learning_rate)
    least = min(LEAST_RATE, options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs, least)
    for epoch in range(options.epochs):
        order = torch.randperm(len(labels), generator=generator).to(features.device)
        for batch in order.split(options.batch_size):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(F.linear(features[batch], weight, bias), labels[batch]).backward()
            optimizer.step()
        schedule.step()
        if not weight.isfinite().all():
            raise Diverged(
                f"the probe's weights became infinite in epoch {epoch + 1}: lower learning_rate "
                f"(now {options.learning_rate:g})."
            )
    return Probe(weight.detach(), bias.detach(), None)
