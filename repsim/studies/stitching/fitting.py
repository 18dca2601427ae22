"""Finding the transform between two layers: by a task's loss, or by matching their values directly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations import LayerGraph
from repsim.attacks import run_attack
from repsim.data import Augmentation, ImageSource, images_and_labels
from repsim.studies.stitching.activation_cache import Budget, cached_activations
from repsim.studies.stitching.network import (
    BATCH,
    StitchedNetwork,
    as_graph,
    check_donors,
    layer_moments,
    layout_between,
    make_transform,
    splice,
)
from repsim.studies.stitching.options import StitchOptions
from repsim.studies.stitching.targets import Labels, check_targets, is_multilabel, make_targets, make_task
from repsim.studies.stitching.transforms import Transform, check_rank
from repsim.support.devices import check_precision, device_of, evaluating, rounding_to, seeded
from repsim.support.labels import LabelSource, as_labels
from repsim.support.progress import progress_bar
from repsim.training import augmented
from repsim.training.optimization import check_finite, make_optimizer, make_schedule, objective

CURVE = ["epoch", "learning_rate", "loss", "accuracy"]


@torch.inference_mode(False)  # gradients, also where the caller has switched them off
def stitch(
    front: nn.Module | LayerGraph,
    end: nn.Module | LayerGraph,
    layer_front: str,
    layer_end: str,
    images: ImageSource,
    labels: LabelSource | None = None,
    options: StitchOptions | None = None,
    *,
    augmentation: Augmentation | None = None,
    cross_task: bool = False,
    budget: Budget | None = None,
    on_epoch: Callable[[int, StitchedNetwork], None] | None = None,
    progress: bool = True,
) -> tuple[StitchedNetwork, pd.DataFrame]:
    """Stitch two networks, and find the transform between them.

    Where images, front and statistics are fixed (standard training without augmentation, or on adversarial
    images that are made beforehand), everything before the transform is computed once and kept.

    Parameters
    ----------
    front, end, layer_front, layer_end, cross_task
        See `splice`.
    images, labels
        Of training, as `run_attack` takes them: one class for each image, or a 0 or 1 for each of its
        classes. Direct matching looks at the images only.
    options
        See `StitchOptions`.
    augmentation
        Of the data set; used with `options.augment`.
    budget
        Of what is kept.
    on_epoch
        Called with the number of epochs done and the stitched network.

    Returns
    -------
    tuple
        The stitched network in evaluation mode, and a table with one row per epoch: `epoch`,
        `learning_rate`, `loss`, `accuracy` (on the training images as they were seen; for multi-label data
        the share of right answers). Without rows for direct matching.

    Raises
    ------
    ValueError
        What `splice`, `Transform` and `Moments.solve` refuse, and images outside [0, 1].
    Diverged
        The loss became NaN or infinite.
    """
    options = options or StitchOptions()
    images, labels = images_and_labels(images, labels)
    labels = as_labels(labels)
    front, end = as_graph(front, images.shape[1:]), as_graph(end, images.shape[1:])
    check_donors(front, end, cross_task)
    device = device_of(end.network)
    check_precision(options.precision, device)
    images, labels = images.to(device), labels.to(device)
    if options.is_direct:
        transform = match(front, end, layer_front, layer_end, images, options)
        return splice(front, end, layer_front, layer_end, transform, cross_task=cross_task), _curve([])
    check_targets(options, front, end, labels)
    transform = make_transform(
        front,
        end,
        layer_front,
        layer_end,
        flatten=options.flatten,
        resize=options.resize,
        rank=options.rank,
        initial=options.initial,
        mask=options.mask,
        images=images,
        seed=options.seed,
    ).to(device)
    stitched = splice(front, end, layer_front, layer_end, transform, cross_task=cross_task)
    task = make_task(options, is_multilabel(labels))
    moving = augmentation if options.augment and augmentation != Augmentation() else None
    if moving and options.attacked != "stitched" and options.targets != "hard":
        raise ValueError(
            f"targets={options.targets!r} are the donors' answers to clean images, which a transfer set that "
            "is augmented has not: augment=False."
        )
    seen, attack = images, options.attack
    if attack is not None and options.attacked != "stitched":
        seen, attack = transfer_set(front.network, end.network, images, labels, options), None
    targets = None if moving else make_targets(options, front.network, end.network, images, labels)
    penalty = _penalty(options, stitched, end, layer_end)
    running = stitched if options.update_batchnorm else stitched.faster(images[:2])
    running = running.computing_in(options.precision)

    def batch_loss(batch: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, given by the places of its images, and their logits."""
        if kept is not None:
            value, *context = (tensor[batch.to(tensor.device)].to(device) for tensor in kept)
            logits = running.after(value, *context)
            return task(logits, targets[batch]) + penalty(seen[batch], value), logits
        x = augmented(seen[batch], moving) if moving else seen[batch]
        wanted = (
            make_targets(options, front.network, end.network, x, labels[batch]) if moving else targets[batch]
        )
        loss, logits = objective(options, attack, running, x, wanted, task)
        return loss + penalty(x), logits

    by_batch = any(layer.running_mean is None for layer in stitched.batchnorms().values())
    fixed = attack is None and moving is None and not options.update_batchnorm and not by_batch
    with cached_activations(running, seen, budget or Budget()) if fixed else nullcontext() as kept:
        curve = _train(stitched, batch_loss, labels, options, on_epoch, progress)
    return stitched.eval(), _curve(curve)


def _penalty(
    options: StitchOptions, stitched: StitchedNetwork, end: LayerGraph, layer_end: str
) -> Callable[..., Tensor | float]:
    """The addition to the loss of images: the transform's own size, and its likeness to the end's values."""
    own = end.prefix(layer_end) if options.cka_weight else None

    def penalty(images: Tensor, value: Tensor | None = None) -> Tensor | float:
        total = 0.0
        if options.l1:
            total = total + options.l1 * stitched.transform.weight.abs().mean()
        if own is not None:
            with rounding_to(options.precision, images.device):
                if value is None:
                    with evaluating(stitched.prefix):  # BatchNorm has seen this batch
                        value = stitched.prefix(images)
                given, wanted = stitched.transform(value), own(images)
            total = total + options.cka_weight * linear_cka(given, wanted)
        return total

    return penalty


def linear_cka(x: Float[Tensor, "n ..."], y: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """Linear CKA of a batch, through which gradients flow (for all else there is `repsim.measures`)."""
    x, y = (each.flatten(1).to(torch.promote_types(each.dtype, torch.float32)) for each in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    gram_x, gram_y = x @ x.T, y @ y.T
    return (gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm()).clamp(min=1e-12)


def _train(
    stitched: StitchedNetwork,
    batch_loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    labels: Labels,
    options: StitchOptions,
    on_epoch: Callable[[int, StitchedNetwork], None] | None,
    progress: bool,
) -> list[dict[str, float]]:
    device = labels.device
    optimizer = make_optimizer(options, stitched.transform.parameters())
    batches = max(1, len(labels) // options.batch_size)
    scheduler = make_schedule(options, optimizer, batches)
    history = []
    bar = progress_bar(range(options.epochs), "stitch", "epoch", progress)
    for epoch in bar:
        stitched.train()
        if options.update_batchnorm:
            for module in stitched.batchnorms().values():
                module.train()
        total = right = seen = 0.0
        with seeded(options.seed * 100_003 + epoch, device):
            order = torch.randperm(len(labels)).to(device)
            for batch in order.split(options.batch_size)[:batches]:
                optimizer.zero_grad(set_to_none=True)
                loss, logits = batch_loss(batch)
                check_finite(loss.item(), epoch + 1, scheduler.get_last_lr()[0], options)
                loss.backward()
                optimizer.step()
                scheduler.step()
                total += loss.item() * len(batch)
                right += _right(logits, labels[batch]) * len(batch)
                seen += len(batch)
        rate = scheduler.get_last_lr()[0]
        history.append(dict(zip(CURVE, (epoch + 1, rate, total / seen, right / seen), strict=True)))
        bar.set_postfix(loss=f"{total / seen:.3f}", accuracy=f"{right / seen:.3f}")
        if on_epoch is not None:
            on_epoch(epoch + 1, stitched)
    return history


def _right(logits: Tensor, labels: Labels) -> float:
    answers = (logits > 0).float() if is_multilabel(labels) else logits.argmax(1)
    return (answers == labels).float().mean().item()


def _curve(history: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(history, columns=CURVE)


def match(
    front: LayerGraph,
    end: LayerGraph,
    layer_front: str,
    layer_end: str,
    images: Float[Tensor, "n c h w"],
    options: StitchOptions,
) -> Transform:
    """The transform by which the front layer's values of images are nearest to the end layer's."""
    layout = layout_between(
        front, end, layer_front, layer_end, flatten=options.flatten, resize=options.resize
    )
    if options.rank:
        check_rank(options.rank, *layout.channels)
    moments = layer_moments(front, end, layer_front, layer_end, layout, images)
    try:
        weight, bias = moments.solve(options.method, ridge=options.ridge, rank=options.rank)
    except ValueError as error:
        raise ValueError(f"{layer_front} → {layer_end}: {error}") from error
    return Transform.of(layout, weight, bias)


def transfer_set(
    front: nn.Module,
    end: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Labels,
    options: StitchOptions,
) -> Float[Tensor, "n c h w"]:
    """The training images, a share `attack_ratio` of them made to fool the front, the end, or each half."""
    device = images.device
    hard = make_task(options.but(targets="hard"), is_multilabel(labels))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed)).to(device)
    chosen = order[: round(options.attack_ratio * len(images))]
    half = len(chosen) // 2
    both = [(front, chosen[:half]), (end, chosen[half:])]
    parts = {"front": [(front, chosen)], "end": [(end, chosen)], "both": both}[options.attacked]
    changed = images.clone()
    settings = {"batch_size": BATCH, "seed": options.seed, "loss": hard}
    for donor, places in parts:
        if len(places):
            with rounding_to(options.precision, device):
                changed[places] = run_attack(
                    donor, images[places], labels[places], options.attack, **settings
                )
    return changed
