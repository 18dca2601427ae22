"""Inverted images that others made, read as they are published, and kept like ours.

Klabunde et al. (2025) publish one tensor per network, `resnet18_eps3.pt`: images (n, c, h, w) in the order of
their lists of seeds and targets (`Pairs.read_files`), as floats in [0, 1] or as bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from repsim.attacks import epsilon_text
from repsim.data import Dataset, to_bytes
from repsim.store import Draft
from repsim.studies.inversion.inverting import BATCH, FeatureExtractor
from repsim.studies.inversion.options import InversionOptions
from repsim.studies.inversion.pairs import Pairs
from repsim.studies.inversion.recipe import InversionRecipe
from repsim.studies.inversion.store import INVERTED, InvertedSet, write_set
from repsim.support import artifacts
from repsim.training.model_store import TrainedModel

# How Klabunde et al. made theirs, by their code: half the iterations of Jones et al., for all images.
PUBLISHED = InversionOptions(iterations=1000, tolerance=0.0)


def read_inverted(
    path: str | Path,
    model: TrainedModel,
    dataset: Dataset,
    pairs: Pairs,
    *,
    layer: str = "penultimate",
    options: InversionOptions = PUBLISHED,
) -> InvertedSet:
    """A file of inverted images as a set of a model, kept in the store, for `sets=` of `compare_models`.

    How near each image is to its target is measured with the model given: where most are as far as their
    seeds, the file is another network's, or in another order than the pairs.

    Parameters
    ----------
    path
        A tensor (n, c, h, w) that `torch.save` wrote. Nothing in it is executed.
    pairs
        The seed and the target of each image.
    layer, options
        What the images were made to match, and how: the file does not say.

    Raises
    ------
    ValueError
        The file is not there, or holds no such tensor; images are of another shape, or not as many as pairs;
        or pixels are outside [0, 1].
    """
    images = _read(Path(path).expanduser(), dataset, pairs)
    source = artifacts.digest(images)
    recipe = InversionRecipe.of(model, pairs, layer, options, source=source)

    def make(draft: Draft) -> dict[str, object]:
        read = FeatureExtractor(model.network, layer, dataset.image_shape)
        part = _part(read, images, pairs.targets(dataset.test), options)
        return write_set(recipe, [part], pairs, draft)

    return INVERTED.obtain(recipe, make)


def read_sets(
    folder: str | Path,
    models: Iterable[TrainedModel],
    dataset: Dataset,
    pairs: Pairs,
    *,
    layer: str = "penultimate",
    options: InversionOptions = PUBLISHED,
) -> dict[str, InvertedSet]:
    """`read_inverted` for each of several models, from a folder of files: by the models' names.

    Raises
    ------
    ValueError
        A model has no file, or two have the same; or as `read_inverted`.
    """
    files: dict[Path, TrainedModel] = {}
    for model in models:
        file = published_file(folder, model)
        if file in files:
            raise ValueError(
                f"{file} is of one network, but {files[file].name} and {model.name} are both called so: take "
                f"one seed, or name the files {files[file].name}.pt and {model.name}.pt."
            )
        files[file] = model
    options_of = {"layer": layer, "options": options}
    return {m.name: read_inverted(file, m, dataset, pairs, **options_of) for file, m in files.items()}


def published_file(folder: str | Path, model: TrainedModel) -> Path:
    """The file of a model: by its name in the store, or as Klabunde et al. name theirs.

    Raises
    ------
    ValueError
        There is none.
    """
    folder = Path(folder).expanduser()
    level = f"{model.recipe.epsilon:g}".replace(".", "")  # 0.25 is eps025
    theirs = f"{model.recipe.architecture.rpartition(':')[2]}_eps{level}"
    names = [f"{name}.pt" for name in (model.name, theirs, f"{theirs}_uint8")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise ValueError(
            f"{folder} holds no inverted images of {model.recipe.architecture}, ε = "
            f"{epsilon_text(model.recipe.epsilon)}, seed {model.recipe.seed}: looked for {', '.join(names)}."
        )
    return found[0]


def _read(path: Path, dataset: Dataset, pairs: Pairs) -> UInt8[Tensor, "n c h w"]:
    """The images as bytes."""
    if not path.is_file():
        raise ValueError(f"{path} is not there.")
    try:
        images = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        with path.open("rb") as file:
            beginning = file.read(16)
        raise ValueError(
            f"{path} is no tensor as torch.save writes it, or holds more than tensors, which is refused: it "
            f"begins with {beginning!r}."
        ) from error
    if not isinstance(images, Tensor):
        raise ValueError(f"{path} holds a {type(images).__name__}, not one tensor of images.")
    shape = dataset.image_shape
    if images.dim() != 4 or tuple(images.shape[1:]) != shape:
        last = ": its channels come last" if tuple(images.shape[1:]) == (*shape[1:], shape[0]) else ""
        raise ValueError(
            f"{path} is a tensor of shape {tuple(images.shape)}{last}; inverted images of {dataset.title} "
            f"are (n, {', '.join(map(str, shape))})."
        )
    if len(images) != len(pairs):
        raise ValueError(
            f"{path} holds {len(images)} images, but there are {len(pairs)} pairs of a seed and a target."
        )
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(
            f"{path} holds numbers of type {images.dtype}: images are floats in [0, 1], or uint8."
        )
    low, high = (value.item() for value in images.aminmax())
    if not (low >= 0 and high <= 1):  # so written that NaN is refused too
        raise ValueError(
            f"{path} has pixels in [{low:.3g}, {high:.3g}], not in [0, 1]: {_reason(low, high)}."
        )
    return to_bytes(images.float())


def _reason(low: float, high: float) -> str:
    if low >= 0 and high <= 255 and high > 2:
        return "they look like bytes, so divide them by 255, or save them as uint8"
    if low < 0:
        return (
            "they look normalised, so multiply them by the deviation and add the mean of the network's inputs"
        )
    return "something is wrong with them"


def _part(
    read: FeatureExtractor, images: Tensor, targets: Tensor, options: InversionOptions
) -> dict[str, Tensor]:
    """The stored part of a set, with the distances as they are found now."""
    losses = []
    with torch.no_grad():
        for some, wanted in zip(images.split(BATCH), targets.split(BATCH), strict=True):
            there = read(wanted.to(read.device)).clone()
            here = read(some.to(read.device).float() / 255)
            losses.append(((here - there).norm(dim=1) / there.norm(dim=1)).cpu())
    loss = torch.cat(losses)
    converged = (loss <= InversionOptions().tolerance).float().mean()
    return {
        "images": images,
        "loss": loss,
        "iterations": torch.full((len(images),), options.iterations),
        "curve": torch.stack([loss.mean(), converged])[None],
    }
