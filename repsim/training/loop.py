"""Train a network by a recipe (standard, PGD or TRADES), and resume it after a kill."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from repsim.data import (
    Augmentation,
    Dataset,
)
from repsim.models import build_model
from repsim.store import read_unfinished, write_unfinished
from repsim.support.devices import (
    device_of,
    laid_out,
    lay_out,
    resolve_device,
    seeded,
    training_format,
)
from repsim.support.labels import TRADES_NEEDS_CLASSES, is_multilabel, right_in_batch
from repsim.support.progress import progress_bar
from repsim.training.optimization import batches_of, check_finite, make_optimizer, make_schedule, objective
from repsim.training.recipe import Recipe

PART_AREA, PART_SHAPE, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of random parts of photographs


@torch.inference_mode(False)  # gradients, also where the caller has switched them off
def train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    device: str = "auto",
    progress: bool = True,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> tuple[nn.Module, pd.DataFrame]:
    """Train a network by `recipe`.

    Each epoch draws from random numbers of its own, seeded by (`data_seed`, epoch), and the checkpoint
    holds everything else, so that N epochs, a kill and M more equal N + M epochs, on one CPU and with one
    number of threads bit for bit. Other threads may train at the same time, but take turns by epochs.

    Parameters
    ----------
    checkpoint
        Written after each epoch but the last; where it exists and is whole, training goes on from it. The
        caller removes it, once the result is safe.
    on_epoch
        Called with the number of epochs done and the network, before the checkpoint is written.

    Returns
    -------
    tuple
        The network in evaluation mode, and a table with one row per epoch: `epoch`, `learning_rate` (at the
        epoch's end), `loss`, `accuracy` (on the training images as they were seen: augmented and attacked).

    Raises
    ------
    Diverged
        The loss became NaN or infinite.
    ValueError
        The recipe is of an imported network; or the data are multi-label, and the method is TRADES.
    """
    if recipe.method == "imported":
        raise ValueError(f"{recipe.name} was trained elsewhere: its recipe cannot be followed here.")
    if recipe.method == "trades" and is_multilabel(dataset.train.labels):
        raise ValueError(TRADES_NEEDS_CLASSES)
    target = resolve_device(device)
    model = build_model(
        recipe.architecture,
        dataset.image_shape,
        len(dataset.classes),
        dataset.mean,
        dataset.std,
        seed=recipe.seed,
    )
    model = model.to(target)
    optimizer = make_optimizer(recipe, model.parameters())
    batches = batches_of(recipe, len(dataset.train))
    scheduler = make_schedule(recipe, optimizer, batches)
    split = dataset.train.to(target)
    augmentation = dataset.augmentation if recipe.augment else Augmentation()
    history: list[dict[str, float]] = []
    if checkpoint is not None and (written := read_unfinished(checkpoint)) is not None:
        history = _restore(written, checkpoint, recipe, model, optimizer, scheduler)

    bar = progress_bar(range(len(history), recipe.epochs), recipe.architecture, "epoch", progress)
    for epoch in bar:
        with seeded(recipe.data_seed * 100_003 + epoch, target):
            loss, accuracy = _epoch(recipe, split, augmentation, model, optimizer, scheduler, batches)
        rate = scheduler.get_last_lr()[0]
        history.append({"epoch": epoch + 1, "learning_rate": rate, "loss": loss, "accuracy": accuracy})
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")
        if on_epoch is not None:
            on_epoch(epoch + 1, model)
        if checkpoint is not None and epoch + 1 < recipe.epochs:
            _save(checkpoint, recipe, model, optimizer, scheduler, history)
    return lay_out(model.eval(), torch.contiguous_format), pd.DataFrame(history)


def _epoch(recipe, split, augmentation, model, optimizer, scheduler, batches) -> tuple[float, float]:
    model.train()
    device = split.labels.device
    memory_format = training_format(device)  # the number of threads may have changed since the last epoch
    lay_out(model, memory_format)
    order = torch.randperm(len(split)).to(device).split(recipe.batch_size)[:batches]
    done = scheduler.last_epoch / (batches * recipe.epochs)
    total_loss = correct = seen = 0.0
    # No cache: older torch would keep the casts of TRADES' no_grad pass, and the weights get no gradient.
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)
    for batch, images in zip(order, split.in_batches(order), strict=True):
        x, y = laid_out(augmented(images, augmentation), memory_format), split.labels[batch]
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss, logits = objective(recipe, recipe.attack(done), model, x, y)
        value = loss.item()
        epoch = scheduler.last_epoch // batches + 1
        check_finite(value, epoch, scheduler.get_last_lr()[0], recipe)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total_loss += value * len(y)
        correct += right_in_batch(logits, y).sum().item()
        seen += len(y)
    return total_loss / seen, correct / seen


def augmented(images: Float[Tensor, "n c h w"], augmentation: Augmentation) -> Float[Tensor, "n c h w"]:
    """Each image cut, shifted and mirrored at random, as `augmentation` says."""
    count, _, height, width = images.shape
    device = images.device
    if augmentation.resized_crop:
        images = _resized_crops(images)
    if augmentation.flip:
        mirrored = (torch.rand(count) < 0.5).to(device).view(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(-1), images)
    if augmentation.crop:
        margin = augmentation.crop
        padded = F.pad(images, [margin] * 4)
        top, left = torch.randint(0, 2 * margin + 1, (2, count, 1)).to(device)
        rows = (top + torch.arange(height, device=device)).view(count, 1, height, 1)
        columns = (left + torch.arange(width, device=device)).view(count, 1, 1, width)
        index = torch.arange(count, device=device).view(-1, 1, 1, 1)
        channel = torch.arange(images.shape[1], device=device).view(1, -1, 1, 1)
        images = padded[index, channel, rows, columns]
    return images


def _resized_crops(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """A random part of each image, enlarged to the whole."""
    count, _, height, width = images.shape
    area = torch.empty(TRIES, count).uniform_(*PART_AREA)
    shape = torch.empty(TRIES, count).uniform_(*map(math.log, PART_SHAPE)).exp()
    # in shares of the image; of several tries the first that fits, else the largest, as torchvision has it
    wide, high = (area * shape * height / width).sqrt(), (area / shape * width / height).sqrt()
    fits = (wide <= 1) & (high <= 1)
    chosen = fits.int().argmax(0), torch.arange(count)
    largest = min(1, PART_SHAPE[1] * height / width), min(1, width / height / PART_SHAPE[0])
    wide, high = (
        torch.where(fits.any(0), each[chosen], most) for each, most in zip((wide, high), largest, strict=True)
    )
    left, top = torch.rand(2, count) * (1 - torch.stack([wide, high]))
    zero = torch.zeros(count)
    across = torch.stack([wide, zero, 2 * left + wide - 1], dim=1)
    down = torch.stack([zero, high, 2 * top + high - 1], dim=1)
    places = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    found = F.grid_sample(images, places.to(images.device), padding_mode="border", align_corners=False)
    return found.clamp(0, 1)


def _save(checkpoint: Path, recipe, model, optimizer, scheduler, history) -> None:
    state = {
        "address": recipe.address,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "history": history,
    }
    content = io.BytesIO()
    torch.save(state, content)
    write_unfinished(checkpoint, content.getvalue())


def _restore(written: bytes, checkpoint: Path, recipe, model, optimizer, scheduler) -> list[dict[str, float]]:
    state = torch.load(io.BytesIO(written), map_location=device_of(model), weights_only=True)
    if state["address"] != recipe.address:
        raise ValueError(
            f"{checkpoint} belongs to recipe {state['address']}, not to {recipe.address}: give each recipe a "
            "checkpoint of its own."
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return state["history"]
