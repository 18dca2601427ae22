"""Fit a linear probe: least squares or logistic regression to the minimum, or the published epochs of Adam.

The first two work in directions of the features in which scale and correlations do not count. What decides
is computed in float64; float32 takes the steps, and ranks those penalties that are not near each other.
Products in bfloat16 would be no help: of correlated features, they leave a slope 60 times the tolerance.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
TOLERANCE = 3e-6  # of `logistic`: the greatest slope of the mean loss that is taken for 0
MOST_STEPS = 500
MOST_TRIES = 20  # of the length of a step
HISTORY = 10  # steps that L-BFGS remembers
LEFT = 10  # times the tolerance: a greater slope is said
BLOCK = 4096  # inputs at a time of what would need much memory
COLUMNS = 128  # of a symmetric product at a time
MARGIN = 8  # times the rounding that is expected of float32 is what it may be
LEAST_LEFT = 0.01  # of an input beside its leverage, for float32 to tell what is left


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
    if len(features) and not torch.stack(features.aminmax()).isfinite().all():
        raise ValueError("features have values that are not finite (NaN or infinite).")
    if not len(labels) or labels.max() >= classes:
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, one at least.")
    if len(labels.unique()) < 2:
        raise ValueError("a probe tells classes apart: all labels are the same.")
    if all((block == features[:1]).all() for block in features.split(BLOCK)):
        raise ValueError("features do not vary: all inputs have the same.")
    features = features.detach()
    if options.kind == "adam":
        with torch.inference_mode(False):  # gradients, also where the caller has switched them off
            return _adam(features, labels, classes, options)
    fit = _ridge if options.kind == "ridge" else _logistic
    weight, bias, penalty = fit(features, F.one_hot(labels, classes), options.penalty)
    return Probe(weight.float(), bias.float(), penalty)


def _classes(labels: LabelSource, features: Tensor) -> Int[Tensor, " n"]:
    """Labels as classes, where the features are."""
    labels = as_labels(labels)
    check_one_class(labels, "a probe needs")
    return labels.to(features.device)


@dataclass(frozen=True, eq=False)
class _Principal:
    """Centred features in their principal directions, in float64."""

    features: Float[Tensor, "n d"]  # as they were given
    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d r"]
    variances: Float[Tensor, " r"]
    moments: Float[Tensor, "r c"]  # scores.T @ (targets − their mean) / n
    scale: float  # the mean variance of a feature
    kept: Float[Tensor, "n r"] | None  # the scores, where they are a by-product

    def scores(self, dtype: torch.dtype) -> Iterator[Float[Tensor, "block r"]]:
        """Features along the directions, block by block of inputs."""
        if self.kept is not None:
            yield from self.kept.to(dtype).split(BLOCK)
            return
        directions = self.directions.to(dtype)
        for block in self.features.split(BLOCK):
            yield (block.double() - self.mean).to(dtype) @ directions


def _principal(features: Float[Tensor, "n d"], rest: Float[Tensor, "n c"]) -> _Principal:
    """Principal directions in float64, from the smaller of the two matrices of inner products."""
    mean = _mean(features)
    n, width = features.shape
    if width <= n:
        sums = torch.zeros(width, width + rest.shape[1], dtype=torch.float64, device=features.device)
        for block, own in _blocks(features, rest):
            centred = block.double() - mean
            sums += _products(centred, torch.cat([centred, own], 1))
        product, moments = sums[:, :width], sums[:, width:]
    else:
        centred = features.double() - mean
        product = centred @ centred.T
    squares, vectors = torch.linalg.eigh(product)
    scale = float(product.trace()) / (n * width)
    there = squares > squares[-1] * max(n, width) * torch.finfo(squares.dtype).eps
    squares, vectors = squares[there], vectors[:, there]
    if width <= n:
        directions, scores, moments = vectors, None, vectors.T @ moments / n
    else:
        directions, scores = centred.T @ (vectors / squares.sqrt()), vectors * squares.sqrt()
        moments = scores.T @ rest / n
    return _Principal(features, mean, directions, squares / n, moments, scale, scores)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same inputs of each."""
    return zip(*(each.split(BLOCK) for each in tensors), strict=True)


def _mean(features: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    return torch.stack([block.double().sum(0) for block in features.split(BLOCK)]).sum(0) / len(features)


def _products(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> Float[Tensor, "d e"]:
    """Inner products x.T @ y of which y begins with x: of that part, which is symmetric, half is computed."""
    width = x.shape[1]
    found = x.new_zeros(width, y.shape[1])
    for start in range(0, width, COLUMNS):
        found[start : start + COLUMNS, start:] = x[:, start : start + COLUMNS].T @ y[:, start:]
    symmetric = found[:, :width]
    symmetric.copy_(symmetric.triu() + symmetric.triu(1).T)
    return found


def _ridge(
    features: Float[Tensor, "n d"], targets: Int[Tensor, "n c"], penalty: float | None
) -> tuple[Tensor, Tensor, float]:
    """Weights, bias at the mean of the features, and penalty."""
    share = targets.double().mean(0)
    rest = targets - share
    principal = _principal(features, rest)
    chosen = penalty if penalty is not None else _least_left_out(principal, rest)
    shrink = 1 / (principal.variances + chosen * principal.scale)
    weight = (principal.directions @ (shrink[:, None] * principal.moments)).T
    return weight, share - weight @ principal.mean, chosen


def _least_left_out(principal: _Principal, rest: Float[Tensor, "n c"]) -> float:
    """The penalty that predicts inputs best from the others: float64 decides where float32 cannot."""
    errors, doubt = _left_out(principal, rest, PENALTIES, torch.float32)
    least = torch.where(doubt < 1, errors * (1 - doubt), 0)  # no number is no knowledge either
    greatest = torch.where(doubt < 1, errors * (1 + doubt), torch.inf)
    near = least <= greatest.min()
    contenders = [penalty for penalty, one in zip(PENALTIES, near.tolist(), strict=True) if one]
    if len(contenders) > 1:
        errors, _ = _left_out(principal, rest, contenders, torch.float64)
        return contenders[int(errors.argmin())]
    return contenders[0]


def _left_out(
    principal: _Principal, rest: Float[Tensor, "n c"], penalties: Sequence[float], dtype: torch.dtype
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Squared errors of inputs that the others predict, and the share of them that rounding may be.

    Leaving out one input is a formula: its error divided by what it is left of, 1 − its leverage, here
    without the difference of nearly equal numbers that this is where there are more features than inputs.
    """
    n, classes = rest.shape
    variances = principal.variances
    added = torch.tensor(penalties, dtype=torch.float64, device=rest.device) * principal.scale
    shrink = 1 / (variances[:, None] + added)
    weights = shrink[:, :, None] * principal.moments[:, None, :]
    every = weights.flatten(1).to(dtype)
    leverage = torch.cat([added * shrink, torch.ones_like(shrink[:, :1])], 1) / (n * variances[:, None])
    leverage = leverage.to(dtype)
    squares = torch.zeros_like(added)
    errors = torch.zeros_like(added)
    least = torch.ones_like(added)
    for scores, own in zip(principal.scores(dtype), rest.to(dtype).split(BLOCK), strict=True):
        along = scores.square() @ leverage
        kept = (1 - 1 / n - along[:, -1:]).clamp_min(0) + along[:, :-1]
        error = (own[:, None] - (scores @ every).view(-1, len(added), classes)).square().sum(2)
        squares += error.sum(0)
        errors += (error / kept.square()).sum(0)
        least = torch.minimum(least, kept.amin(0))
    # Rounding moves an input x by about eps ‖x‖: what is predicted, by ‖W‖ times this; its leverage, by at
    # most twice this over the root of n times the least variance with what is added.
    size = variances.sum().sqrt()
    moved = weights.square().sum((0, 2)).sqrt() * size / (squares / n).sqrt()
    tilted = 4 * size * (shrink[0] / n).sqrt()
    doubt = MARGIN * torch.finfo(dtype).eps * (1 + moved + tilted) / least
    return errors, torch.where(least > LEAST_LEFT, doubt, torch.inf)


def _logistic(
    features: Float[Tensor, "n d"], targets: Int[Tensor, "n c"], penalty: float
) -> tuple[Tensor, Tensor, float]:
    """Weights, bias at the mean of the features, and penalty.

    Steps are taken in the coordinates in which the loss is equally steep in all directions where it begins,
    at weights of 0: its second derivatives are there the covariance of the features times c, the mean
    variance of a class, and the penalty. In float32: steps decide nothing that rounding does.
    """
    n, width = features.shape
    directions: Tensor | None = None
    if width > n:  # as many directions as inputs hold all that there is
        principal = _principal(features, targets.double())
        mean, directions, values = principal.mean, principal.directions, principal.kept.float()
    else:
        mean = _mean(features)
        values = torch.empty(features.shape, device=features.device)
        for own, block in _blocks(values, features):
            own.copy_(block.double() - mean)
    hot = targets.T.float().contiguous()  # classes down, inputs across: softmax takes a tenth of the time
    share = hot.mean(1).clamp_min(1 / n)
    product = _products(values, values).double() / n
    spread = float(product.trace())
    added = penalty * spread / width
    steepness = float((share * (1 - share)).mean())
    # What float32 leaves open of a variance is added too, so that no coordinate is nothing but rounding.
    product.diagonal().add_(added / steepness + torch.finfo(values.dtype).eps * spread)
    factor = torch.linalg.cholesky(product)
    outward = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False).float()

    def loss(point: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient, which by hand takes half the time of autograd's."""
        weight = point[:, :-1] @ outward
        log_probability = (values @ weight.T).T.contiguous().add_(point[:, -1:]).log_softmax(0)
        value = added / 2 * weight.square().sum() - torch.dot(log_probability.flatten(), hot.flatten()) / n
        error = log_probability.exp_().sub_(hot).div_(n)
        slope = torch.addmm(added * weight, error, values) @ outward.T
        return value, torch.cat([slope, error.sum(1, keepdim=True)], 1)

    start = torch.zeros(len(hot), len(factor) + 1, device=values.device)  # the last column is the bias
    start[:, -1] = share.log()
    found, slope = _minimum(loss, start, 1 / steepness)
    if slope > LEFT * TOLERANCE:
        warnings.warn(
            f"a logistic probe is not at its minimum after {MOST_STEPS} steps: its loss has a slope of "
            f"{slope:.1g} left. Raise penalty (now {penalty:g}).",
            NotAtMinimum,
            stacklevel=4,
        )
    weight = found[:, :-1].double() @ outward.double()
    weight = weight if directions is None else weight @ directions.T
    return weight, found[:, -1].double() - weight @ mean, penalty


def _minimum(
    loss: Callable[[Tensor], tuple[Tensor, Tensor]], point: Tensor, step: float
) -> tuple[Tensor, float]:
    """The minimum of a convex loss, and its greatest slope there, by L-BFGS (Nocedal & Wright, ch. 6 and 7).

    Torch's begins with a step that is far too short, and evaluates the loss half as often again.

    Parameters
    ----------
    step
        How many gradients long the first step is: the inverse of the curvature at the beginning.
    """
    value, gradient = loss(point)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    for _ in range(MOST_STEPS):
        if gradient.abs().max() <= TOLERANCE:
            break
        direction, shares = -gradient, []
        for moved, turned, inverse in reversed(pairs):
            shares.append(inverse * (moved * direction).sum())
            direction = direction - shares[-1] * turned
        direction = direction * step
        for (moved, turned, inverse), share in zip(pairs, reversed(shares), strict=True):
            direction = direction + (share - inverse * (turned * direction).sum()) * moved
        found = _along(loss, point, value, gradient, direction)
        if found is None:
            break  # the loss falls by less than its rounding
        moved, turned = found[0] - point, found[2] - gradient
        if (curved := (moved * turned).sum()) > 0:
            pairs.append((moved, turned, 1 / curved))
            step = float(curved / turned.square().sum())
        point, value, gradient = found
    return point, float(gradient.abs().max())


def _along(
    loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    point: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """A point along a direction that fulfils the weak Wolfe conditions, its loss and gradient; by bisection.

    None where there is none within `MOST_TRIES`.
    """
    falls = (gradient * direction).sum()
    rounding = torch.finfo(value.dtype).eps * value.abs()
    near, far, length = 0.0, math.inf, 1.0
    for _ in range(MOST_TRIES):
        there = point + length * direction
        found, slope = loss(there)
        if not found <= value + 1e-4 * length * falls + rounding:
            far = length
        elif (slope * direction).sum() < 0.9 * falls:
            near = length
        else:
            return there, found, slope
        length = 2 * near if far == math.inf else (near + far) / 2
    return None


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
