"""Train a network by a recipe (standard, PGD or TRADES), resume it after a kill, and evaluate it."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from repsim.attacks import AnyAttack, Attack, Norm, run_attack
from repsim.data import (
    Augmentation,
    Dataset,
    ImageSource,
    Split,
    as_split,
    batches_of_images,
    images_and_labels,
)
from repsim.models import Classifier, build_model, warn_of_batch_statistics
from repsim.support import artifacts
from repsim.support.devices import (
    device_of,
    evaluating,
    laid_out,
    lay_out,
    resolve_device,
    seeded,
    training_format,
)
from repsim.support.labels import TRADES_NEEDS_CLASSES, LabelSource, as_labels, is_multilabel, right_in_batch
from repsim.support.options import Count, Length, NotNegative, Share, options, read_options
from repsim.support.progress import progress_bar
from repsim.training.optimization import batches_of, check_finite, make_optimizer, make_schedule, objective

Method = Literal["standard", "pgd", "trades", "imported"]
PART_AREA, PART_SHAPE, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of random parts of photographs
IDENTITY = (
    "dataset",
    "architecture",
    "fingerprint",
    "method",
    "norm",
    "epsilon",
    "seed",
    "data_seed",
    "origin",
)


@options("training option")
class Recipe:
    """All that decides what a trained network is; equal recipes make equal networks.

    Attributes
    ----------
    dataset, fingerprint
        Which images; `Recipe.on` fills the fingerprint in.
    method
        `standard`; `pgd`, adversarial training (Madry et al., 2018); `trades` (Zhang et al., 2019); or
        `imported`: trained elsewhere, so that of the fields below only norm, ε and seed are known.
    norm, epsilon, attack_steps, step_size
        The training attack, in pixel units; the step size is 2.5 ε / steps unless given. Without an attack
        (`method="standard"`, or ε = 0) they are all reset to one value, so that there is one standard model.
    random_start
        Whether PGD begins at a random point of its ball (TRADES: always, close to the image).
    epsilon_warmup
        Share of the epochs over which the training attack grows from nothing to ε. Where the attack is
        strong for the data, training without it never leaves chance.
    attack_ratio
        Share of each batch that PGD attacks (the α of Balogh & Jelasity, 2023), the rest stays clean.
    beta
        TRADES' weight of robustness against accuracy; 6 as its authors use.
    schedule
        Of the learning rate: `onecycle`; `thirds`, divided by 10 where 1/3, and where 2/3, of the epochs are
        done, between two epochs; or `constant`.
    optimizer
        `sgd` (Nesterov momentum 0.9) or `adam`; `onecycle` moves the momentum too, 0.95 → 0.85 → 0.95.
    seed, data_seed
        Of the initial weights; of the order, augmentation and random starts.
    save_every
        Keep the weights after every so many epochs (0: only the last).
    origin
        Of imported networks, what tells their weights from others'.
    """

    dataset: str
    architecture: str
    fingerprint: str = ""
    method: Method = "standard"
    norm: Norm = "linf"
    epsilon: Length = 0.0
    attack_steps: Count = 7
    step_size: Length | None = None
    random_start: bool = True
    epsilon_warmup: Share = 0.0
    attack_ratio: Share = 1.0
    beta: NotNegative = 6.0
    epochs: Count = 20
    batch_size: Count = 128
    learning_rate: NotNegative = 0.2
    schedule: Literal["onecycle", "thirds", "constant"] = "onecycle"
    optimizer: Literal["sgd", "adam"] = "sgd"
    weight_decay: NotNegative = 5e-4
    augment: bool = True
    seed: int = 0
    data_seed: int = 0
    save_every: Annotated[int, Field(ge=0)] = 0
    origin: str = ""

    def __post_init__(self):
        if (self.method == "imported") != bool(self.origin):
            raise ValueError("imported networks, and no others, have an origin.")
        if self.method == "standard" and self.epsilon:
            raise ValueError(f"method='standard' makes no attack: epsilon must be 0, not {self.epsilon}.")
        fixed: dict[str, object] = {}
        if self.epsilon == 0:
            unused = ("norm", "attack_steps", "step_size", "random_start", "epsilon_warmup", "attack_ratio")
            fixed |= {name: type(self).__dataclass_fields__[name].default for name in unused}
            fixed["method"] = "imported" if self.origin else "standard"
        if fixed.get("method", self.method) == "trades":
            fixed |= {"attack_ratio": 1.0, "random_start": True}  # it has neither
        else:
            fixed["beta"] = 6.0
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

    @classmethod
    def on(cls, dataset: Dataset, architecture: str, **options) -> Recipe:
        """A recipe for a loaded data set, naming exactly its images."""
        return cls(dataset.slug, architecture, dataset.fingerprint, **options)

    def attack(self, progress: float = 1.0) -> Attack | None:
        """The training attack when a share `progress` of the epochs is done, None for a standard model."""
        if self.epsilon == 0:
            return None
        share = min(1.0, progress / self.epsilon_warmup) if self.epsilon_warmup else 1.0
        step_size = None if self.step_size is None else share * self.step_size
        return Attack(share * self.epsilon, self.norm, self.attack_steps, step_size, self.random_start)

    @classmethod
    def options(cls, given: Mapping[str, object]) -> dict[str, object]:
        """Check training options, such as `{"epochs": 40, "step_size": "2/255"}`.

        What tells networks of one set apart (data, architecture, method, attack, seeds) is no such option.

        Raises
        ------
        ValueError
            An option is unknown, or its value not of its type or range.
        """
        return read_options(cls, given, but=IDENTITY)

    @property
    def address(self) -> str:
        """Equal for recipes that make equal networks, however many epochs they keep."""
        made_by = dataclasses.asdict(self)
        del made_by["save_every"]
        if not self.origin:  # networks that are trained here have none
            del made_by["origin"]
        if self.schedule == "thirds" and self.epochs % 3:  # which once fell within an epoch
            made_by["thirds"] = "between epochs"
        return artifacts.address(made_by)

    @property
    def name(self) -> str:
        """What the files of the network are called, without their suffix."""
        return f"{re.sub('[^A-Za-z0-9_]+', '_', self.architecture)}-{self.address}"


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
        Written after each epoch but the last; where it exists, training goes on from it. The caller removes
        it, once the result is safe.
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
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, recipe, model, optimizer, scheduler)

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
    with artifacts.atomic(checkpoint) as temporary:
        torch.save(state, temporary)


def _restore(checkpoint: Path, recipe, model, optimizer, scheduler) -> list[dict[str, float]]:
    try:
        state = torch.load(checkpoint, map_location=device_of(model), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise artifacts.DamagedArtifact(
            f"{checkpoint} is damaged or holds more than tensors, and is refused: remove it to begin again."
        ) from error
    if state["address"] != recipe.address:
        raise ValueError(
            f"{checkpoint} belongs to recipe {state['address']}, not to {recipe.address}: give each recipe a "
            "checkpoint of its own."
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return state["history"]


def predict(model: nn.Module, images: ImageSource, *, batch_size: int = 500) -> Float[Tensor, "n classes"]:
    """Logits of images in [0, 1], in evaluation mode, on the device of `images`.

    Parameters
    ----------
    model
        As `run_attack` takes it.
    images
        As `as_images` takes them. A loader is gone through once, and never in memory as a whole.
    """
    model = Classifier(model)
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        warn_of_batch_statistics(model)
        return torch.cat(
            [
                model(x.to(device)).to(batch.device)
                for batch in batches_of_images(images)
                for x in batch.split(batch_size)
            ]
        )


def accuracy(
    model: nn.Module, images: ImageSource, labels: LabelSource | None = None, *, batch_size: int = 500
) -> float:
    """Share of images whose largest logit is their label's; of multi-label data the share of attributes.

    Parameters
    ----------
    images, labels
        As `run_attack` takes them.
    """
    images, labels = images_and_labels(images, labels)
    labels = as_labels(labels).to(images.device)
    return right_in_batch(predict(model, images, batch_size=batch_size), labels).mean().item()


def robust_accuracy(
    model: nn.Module,
    split: Split | ImageSource,
    attacks: Iterable[AnyAttack],
    *,
    source: nn.Module | None = None,
) -> pd.DataFrame:
    """Accuracy on adversarial images of each attack.

    Parameters
    ----------
    split
        Or batches of images and labels, such as a loader (see `as_images`).
    attacks
        ε = 0 gives clean accuracy (of `jpeg` and `snow`: see there).
    source
        The model that the images are made to fool, when it is another one (transfer robustness).

    Returns
    -------
    DataFrame
        One row per attack: `attack` (its name), `norm`, `epsilon`, `steps`, `accuracy`.
    """
    split = as_split(split, "split")
    rows = []
    for attack in attacks:
        images = run_attack(source or model, split.images, split.labels, attack)
        rows.append(
            {
                "attack": attack.name,
                "norm": attack.norm,
                "epsilon": attack.epsilon,
                "steps": attack.steps,
                "accuracy": accuracy(model, images, split.labels),
            }
        )
    return pd.DataFrame(rows)
