"""Representation inversion: from a seed image to one whose representation is the target's.

One forward and one backward pass per iteration, through no more of the network than the layer needs, with
BatchNorm folded into convolutions, no gradient for weights, and far from the targets in bfloat16 on request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from repsim.activations import LayerGraph, fold_batchnorm, trace
from repsim.activations.folding import channels_side_by_side
from repsim.data import ImageSource, as_images_in_order
from repsim.models import bare
from repsim.studies.inversion.options import InversionOptions
from repsim.support.devices import Precision, check_precision, device_of, rounding_to, training_format
from repsim.support.progress import progress_bar
from repsim.training.optimization import Diverged

BATCH = 100  # images at a time: what a batch of small images needs stays in a processor's cache
CHECK_EVERY = 10  # iterations, after which converged images settle: looking costs an accelerator its queue
NEAR, NEAR_SHARE = 0.05, 0.5  # ten times bfloat16's rounding; share of a batch that is as near as that
LEAVING = 0.1  # share of a batch that must have converged: a batch of another size is slow at first
TINY = torch.finfo(torch.float32).tiny


class FeatureExtractor:
    """Images → their representations (n, d) at a layer, by a frozen copy of the part that it needs.

    Parameters
    ----------
    model
        A classifier of images in [0, 1] in evaluation mode, its `trace`, or an `AttackerModel`.
    layer
        `penultimate`, or a layer's name.
    image_shape
        Channels, height, width.
    compiled
        Run it through `torch.compile` (on CUDA, as a CUDA graph): a minute more to begin with, and less per
        call with as many images as before.

    Raises
    ------
    ValueError
        The model is in training mode, or has no such layer.
    """

    def __init__(
        self,
        model: nn.Module | LayerGraph,
        layer: str,
        image_shape: Sequence[int],
        *,
        compiled: bool = False,
    ):
        network = model.network if isinstance(model, LayerGraph) else bare(model)
        if training := [name for name, module in network.named_modules() if module.training]:
            whole = "" if training[0] == "" else f" (its {training[0]})"
            raise ValueError(
                f"the model is in training mode{whole}, where BatchNorm makes each image's representation "
                "depend on the others in its batch: call model.eval() first."
            )
        graph = model if isinstance(model, LayerGraph) else trace(network, image_shape)
        if graph.batch_dependent:
            raise ValueError(
                "what the model makes of an image depends on the others in its batch (BatchNorm without "
                "running statistics does so), so that no image can be inverted by itself."
            )
        names = graph.select(layer)
        if len(names) != 1:
            raise ValueError(
                f"one layer represents an image; {layer!r} are {len(names)}: {', '.join(names)}."
            )
        self.device, self.check_images = graph.device, graph.check_images
        self.compiled = compiled
        few = graph.trial_images(2)
        prefix = fold_batchnorm(graph.prefix(names[0]), few)
        self._parts = {
            torch.contiguous_format: prefix,
            torch.channels_last: channels_side_by_side(prefix, few),
        }
        self._ready = {} if compiled else self._parts

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        memory_format = training_format(self.device)  # this thread may have as many threads as it likes
        if memory_format not in self._ready:
            self._ready[memory_format] = torch.compile(
                self._parts[memory_format], dynamic=False, mode="reduce-overhead"
            )
        rows = self._ready[memory_format](images).flatten(1)
        return rows.to(
            torch.promote_types(rows.dtype, torch.float32)
        )  # half precision is no measure of length


@dataclass(frozen=True, eq=False)
class Inversion:
    """The result of an inversion.

    Attributes
    ----------
    images
        Pixels in [0, 1], on the device of the seeds.
    loss
        Relative distance ‖f(image) − f(target)‖ / ‖f(target)‖ of each of them.
    iterations
        Updates that each image took.
    curve
        One row per iteration: `iteration`, `loss` (the mean over images, of the best so far, or with
        `use_best=False` of the current), `converged` (the share of images at the tolerance or below).
    """

    images: Float[Tensor, "n c h w"]
    loss: Float[Tensor, " n"]
    iterations: Int[Tensor, " n"]
    curve: pd.DataFrame

    @property
    def converged(self) -> float:
        """Share of images that came as near to their target as the tolerance asks."""
        return float(self.curve["converged"].iloc[-1])


@torch.inference_mode(False)  # gradients, also where the caller has switched them off
def invert(
    model: nn.Module | LayerGraph | FeatureExtractor,
    seeds: ImageSource,
    targets: ImageSource,
    layer: str = "penultimate",
    *,
    batch_size: int = BATCH,
    progress: bool = True,
    **options,
) -> Inversion:
    """Change each seed until the model represents it as it does its target (Mahendran & Vedaldi, 2015).

    Per image, ‖f(s) − f(t)‖₂ / ‖f(t)‖₂ is minimised from the seed s on (Jones et al., 2022).

    Parameters
    ----------
    model
        Any classifier of images in [0, 1], in evaluation mode; its `trace`; an `AttackerModel` of the
        `robustness` package; or a `Reader`, which may be compiled, and knows its layer.
    seeds
        Where to begin: images of other classes than the targets', or `noise` for STIR.
    layer
        Whose value represents an image: `penultimate`, or a layer's name.
    batch_size
        Images at a time. Their inversions do not depend on one another.
    options
        Fields of `InversionOptions`.

    Raises
    ------
    ValueError
        The device does not compute in the precision; the model is in training mode; the layer is unknown;
        there are no seeds, or targets of other shapes; pixels are outside [0, 1]; a target's representation
        is 0.
    Diverged
        A loss or gradient is not a number.
    """
    settings = InversionOptions(**options)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    seeds, targets = as_images_in_order(seeds, "seeds"), as_images_in_order(targets, "targets")
    if seeds.shape != targets.shape:
        raise ValueError(
            "seeds and targets are (n, c, h, w), each seed with one target: seeds are "
            f"{tuple(seeds.shape)}, targets {tuple(targets.shape)}."
        )
    known = isinstance(model, LayerGraph | FeatureExtractor)
    check_precision(settings.precision, model.device if known else device_of(bare(model)))
    read = model if isinstance(model, FeatureExtractor) else FeatureExtractor(model, layer, seeds.shape[1:])
    read.check_images(seeds)
    # a copy of what was made under inference_mode can have gradients
    seeds, targets = (images.detach().float() for images in (seeds, targets))
    seeds, targets = (each.clone() if each.is_inference() else each for each in (seeds, targets))
    parts: list[Inversion] = []
    starts = range(0, len(seeds), batch_size)
    total = len(starts) * settings.iterations
    with progress_bar(None, "inverting", "iteration", progress, total=total) as bar:
        for start in starts:
            rows = slice(start, start + batch_size)
            part = _invert_batch(
                read, seeds[rows].to(read.device), targets[rows].to(read.device), settings, start, bar.update
            )
            parts.append(part)
    columns = ["loss", "converged"]
    curve = sum(len(part.loss) / len(seeds) * part.curve[columns] for part in parts)
    curve.insert(0, "iteration", range(len(curve)))
    images, loss, iterations = (
        torch.cat([getattr(part, name) for part in parts]).to(seeds.device)
        for name in ("images", "loss", "iterations")
    )
    return Inversion(images, loss, iterations, curve)


def _invert_batch(
    read: FeatureExtractor,
    seeds: Tensor,
    targets: Tensor,
    settings: InversionOptions,
    start: int,
    advance: Callable[[int], object],
) -> Inversion:
    """Invert images together; `start` is the first one's number in messages.

    Converged images are moved no further, and leave once they are many; from a compiled network, which is
    compiled for one size of batch, only all together.
    """
    least = 1.0 if read.compiled else LEAVING
    precision = settings.precision
    count, device = len(seeds), seeds.device
    with torch.no_grad():
        wanted = read(targets).clone()  # a CUDA graph writes what it gives over what it gave before
    if not wanted.any(dim=1).all():
        silent = (~wanted.any(dim=1)).nonzero().flatten() + start
        raise ValueError(
            f"the representation of target {_few(silent)} is 0, so that no distance is relative to it: take "
            "another layer, or other targets."
        )
    images, iterations = seeds.clone(), torch.zeros(count).long()
    losses = torch.zeros(count, dtype=wanted.dtype, device=device)
    mean_loss, converged = torch.zeros(2, settings.iterations + 1, dtype=torch.float64, device=device)
    gone_loss = gone = 0.0
    # All that is known of an image is one row of each of these; rows of converged images are taken out.
    state = {
        "number": torch.arange(count, device=device),
        "image": seeds,
        "seed": seeds,
        "wanted": wanted,
        "best": seeds,
        "loss": torch.full((count,), torch.inf, dtype=wanted.dtype, device=device),
        "updates": torch.full((count,), settings.iterations, device=device),
        "settled": torch.zeros(count, dtype=torch.bool, device=device),  # converged, and moved no further
        "finite": torch.ones(count, dtype=torch.bool, device=device),
        "first_moment": torch.zeros_like(seeds),
        "second_moment": torch.zeros_like(seeds),
    }
    for iteration in range(settings.iterations + 1):
        is_last = iteration == settings.iterations
        loss, state["gradient"] = _distance(read, state["image"], state["wanted"], precision, not is_last)
        moving = ~state["settled"]
        kept = moving & (loss < state["loss"]) if settings.use_best else moving
        state["loss"] = torch.where(kept, loss, state["loss"])
        state["best"] = torch.where(_per_image(kept), state["image"], state["best"])
        is_finite = loss.isfinite() & state["gradient"].flatten(1).sum(1).isfinite()
        state["finite"] &= is_finite | ~moving
        if precision != "float32" and not is_last and iteration % CHECK_EVERY == 0:
            near, arrived = (state["loss"] <= bound for bound in (NEAR, settings.tolerance))
            if near.double().mean() >= NEAR_SHARE or arrived.any():
                precision = "float32"  # with which all that was the best so far is measured again
                state["loss"], _ = _distance(read, state["best"], state["wanted"], precision, False)
        done = state["loss"] <= settings.tolerance
        mean_loss[iteration] = (gone_loss + state["loss"].double().sum()) / count
        converged[iteration] = (gone + done.sum()) / count
        if is_last or iteration % CHECK_EVERY == 0:
            _check_finite(state, start, iteration)
            state["updates"] = torch.where(done & moving, iteration, state["updates"])
            state["settled"] = done
            leaving = torch.ones_like(done) if is_last else done
            if leaving.double().mean() >= least:
                number = state["number"][leaving]
                images[number], losses[number] = state["best"][leaving], state["loss"][leaving]
                iterations[number.cpu()] = state["updates"][leaving].cpu()
                gone_loss, gone = gone_loss + state["loss"][leaving].double().sum(), gone + len(number)
                state = {name: rows[~leaving] for name, rows in state.items()}
                if not len(state["number"]):
                    for curve in (mean_loss, converged):
                        curve[iteration:] = curve[iteration].clone()  # CUDA copies nothing onto itself
                    advance(settings.iterations - iteration)
                    break
        state["image"] = _moved(state, settings, iteration)
        advance(1)
    if settings.precision != "float32":  # what was minimised was coarser than what is reported
        losses, _ = _distance(read, images, wanted, "float32", False)
        mean_loss[-1], converged[-1] = losses.mean(), (losses <= settings.tolerance).double().mean()
    curve = {"loss": mean_loss.cpu().numpy(), "converged": converged.cpu().numpy()}
    table = pd.DataFrame({"iteration": range(settings.iterations + 1), **curve})
    return Inversion(images, losses, iterations, table)


def _distance(
    read: FeatureExtractor, images: Tensor, wanted: Tensor, precision: Precision, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """The relative distance of each image's representation, and its gradient (0 where none is asked for)."""
    with torch.set_grad_enabled(with_gradient), rounding_to(precision, images.device):
        images = images.detach().requires_grad_(with_gradient)
        difference = read(images) - wanted
        loss = difference.norm(dim=1) / wanted.norm(dim=1)
        if not with_gradient:
            return loss, torch.zeros_like(images)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
    return loss.detach(), gradient


def _moved(state: dict[str, Tensor], settings: InversionOptions, iteration: int) -> Tensor:
    """The images after a step, which updates the moments of their gradients in place."""
    first, second, gradient = (state[name] for name in ("first_moment", "second_moment", "gradient"))
    if settings.optimizer == "adam":
        first.lerp_(gradient, 1 - 0.9)
        second.lerp_(gradient.square(), 1 - 0.999)
        correct_first, correct_second = (1 - decay ** (iteration + 1) for decay in (0.9, 0.999))
        step = (first / correct_first) / ((second / correct_second).sqrt() + 1e-8)
    else:
        # A gradient of 0 has no direction; divided by the least number, not by 0, it stays 0.
        norms = gradient.flatten(1).norm(dim=1).clamp_min(TINY)
        first.lerp_(gradient / _per_image(norms), 1 - settings.momentum)
        step = first
    moved = state["image"] - settings.step_size * step
    if settings.epsilon:
        moved = state["seed"] + (moved - state["seed"]).renorm(2, 0, settings.epsilon)
    return moved.clamp(0, 1)


def _check_finite(state: dict[str, Tensor], start: int, iteration: int) -> None:
    if not state["finite"].all():
        lost = state["number"][~state["finite"]] + start
        raise Diverged(
            f"the loss or its gradient is not a number for image {_few(lost)}, by iteration {iteration}: is "
            "there NaN in the model's weights, or an operation before the layer that has no gradient?"
        )


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _few(numbers: Int[Tensor, " n"]) -> str:
    """Numbers as a message has them: the first three, and how many more."""
    shown = ", ".join(map(str, numbers[:3].tolist()))
    return shown if len(numbers) <= 3 else f"{shown} and {len(numbers) - 3} more"
