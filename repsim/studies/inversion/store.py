"""Inverted images as artifacts: made in parts, each saved as it is ready, and found again by their recipe.

A set is two files under `data/inverted/<dataset>/`: images as rounded bytes with the pair of each,
`<address>.safetensors`, and its record, `<address>.json`; see `repsim.store`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.data import Dataset, from_bytes, to_bytes
from repsim.store import Artifact, Draft, Store, read_unfinished_tensors, write_unfinished_tensors
from repsim.studies.inversion.inverting import BATCH, FeatureExtractor, invert
from repsim.studies.inversion.pairs import Pairs
from repsim.studies.inversion.recipe import InversionRecipe
from repsim.support import paths
from repsim.support.devices import check_precision, device_of
from repsim.support.progress import progress_bar
from repsim.training.model_store import TrainedModel

NOISE = -1  # the seed index of an image that began as random pixels


@dataclass(frozen=True)
class InvertedSet(Artifact):
    """Stored inverted images: their recipe, their record and where they are."""

    recipe: InversionRecipe

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return self.tensors()

    @property
    def images(self) -> Float[Tensor, "n c h w"]:
        """Pixels in [0, 1], as they were rounded to bytes."""
        return from_bytes(self._tensors["images"])

    @property
    def loss(self) -> Float[Tensor, " n"]:
        """Relative distance of each image's representation from its target's, before rounding.

        Of images that others made: as measured here, after it.
        """
        return self._tensors["loss"]

    @property
    def iterations(self) -> Int[Tensor, " n"]:
        """Updates that each image took."""
        return self._tensors["iterations"]

    @property
    def seed_index(self) -> Int[Tensor, " n"]:
        """The test image from which each began; −1: random pixels."""
        return self._tensors["seed_index"]

    @property
    def target_index(self) -> Int[Tensor, " n"]:
        """The test image whose representation each was to get."""
        return self._tensors["target_index"]

    @property
    def curve(self) -> pd.DataFrame:
        """One row per iteration: `iteration`, `loss`, `converged`; see `Inversion`.

        Of images that others made there is the last row only.
        """
        values = self._tensors["curve"]
        loss, converged = values.double().numpy().T
        first = self.recipe.options.iterations if self.recipe.source else 0
        iteration = range(first, first + len(values))
        return pd.DataFrame({"iteration": iteration, "loss": loss, "converged": converged})

    def check_pairs(self, pairs: Pairs) -> None:
        """Refuse pairs that these images are not of: which seed and target an image has would be wrong.

        Raises
        ------
        ValueError
            They are others.
        """
        if self.recipe.pairs != pairs.address:
            raise ValueError(
                f"the inverted images {self.recipe.address} of {self.recipe.model} are of pairs "
                f"{self.recipe.pairs}, not of {pairs.address}."
            )

    def check_model(self, model: TrainedModel) -> None:
        """Refuse a model that these images were not inverted through.

        Raises
        ------
        ValueError
            It is another, or has been trained again since.
        """
        own = (self.recipe.model, self.recipe.weights)
        if own != (model.name, model.weights):
            raise ValueError(
                f"the inverted images {self.recipe.address} are of {own[0]} (weights {own[1]}…), not of "
                f"{model.name} (weights {model.weights}…)."
            )


INVERTED = Store(
    "inverted images",
    lambda: paths.inverted(),
    InversionRecipe,
    InvertedSet,
    ("recipe", "checksum", "loss", "converged"),
)


def find_inverted(recipe: InversionRecipe) -> InvertedSet | None:
    """The stored set of a recipe, None where there is none."""
    return INVERTED.find(recipe)


def obtain_inverted(
    recipe: InversionRecipe,
    model: TrainedModel,
    dataset: Dataset,
    pairs: Pairs,
    *,
    batch_size: int = BATCH,
    compiled: bool = False,
    recompute: bool = False,
    progress: bool = True,
) -> InvertedSet:
    """The inverted set of a recipe: from the store, else made part by part and saved.

    A killed run goes on with the next part. Two processes that ask for the same set make it once.

    Parameters
    ----------
    batch_size
        Images of a part, inverted together. What they become does not depend on it.
    compiled
        See `Reader`.
    recompute
        Make it again though it is stored.

    Raises
    ------
    ValueError
        The recipe is for another model, or for other pairs or data; `batch_size` is below 1; or what `invert`
        refuses.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    asked = InversionRecipe.of(model, pairs, recipe.layer, recipe.options, start=recipe.start)
    if recipe != asked or pairs.fingerprint != dataset.fingerprint or pairs.dataset != dataset.slug:
        raise ValueError(
            f"the recipe is for {recipe.model} (weights {recipe.weights}…) and pairs {recipe.pairs} of "
            f"{recipe.dataset} ({recipe.fingerprint}); given are {model.name} (weights {model.weights}…) and "
            f"pairs {pairs.address} of {dataset.slug} ({dataset.fingerprint})."
        )

    def make(draft: Draft) -> dict[str, object]:
        check_precision(recipe.options.precision, device_of(model.network))
        read = FeatureExtractor(model.network, recipe.layer, dataset.image_shape, compiled=compiled)
        return write_set(
            recipe, _make_parts(recipe, read, dataset, pairs, draft, batch_size, progress), pairs, draft
        )

    return INVERTED.obtain(recipe, make, again=recompute)


def _make_parts(
    recipe: InversionRecipe,
    read: FeatureExtractor,
    dataset: Dataset,
    pairs: Pairs,
    draft: Draft,
    batch_size: int,
    progress: bool,
) -> list[Mapping[str, Tensor]]:
    """The parts of a set, each saved as it is ready, or found as an earlier run has saved it."""
    seeds = pairs.noise(dataset.test) if recipe.start == "noise" else pairs.seeds(dataset.test)
    targets = pairs.targets(dataset.test)
    options = dataclasses.asdict(recipe.options)
    parts = []
    for start in progress_bar(
        range(0, len(pairs), batch_size), f"inverting {recipe.model}", "part", progress
    ):
        rows = slice(start, start + batch_size)
        file = draft.parts / f"{start:06d}.safetensors"
        part = read_unfinished_tensors(file)
        if part is None or len(part["loss"]) != len(targets[rows]):
            found = invert(read, seeds[rows], targets[rows], batch_size=batch_size, progress=False, **options)
            part = {
                "images": to_bytes(found.images),
                "loss": found.loss,
                "iterations": found.iterations,
                "curve": torch.from_numpy(found.curve[["loss", "converged"]].to_numpy(copy=True)).float(),
            }
            write_unfinished_tensors(file, part)
        parts.append(part)
    return parts


def write_set(
    recipe: InversionRecipe, parts: Sequence[Mapping[str, Tensor]], pairs: Pairs, draft: Draft
) -> dict[str, object]:
    """Put parts of a set (`images`, `loss`, `iterations` and `curve` of each) into its file; the record."""
    tensors = {name: torch.cat([part[name] for part in parts]) for name in ("images", "loss", "iterations")}
    shares = [len(part["loss"]) / len(pairs) for part in parts]
    tensors["curve"] = sum(share * part["curve"] for share, part in zip(shares, parts, strict=True))
    tensors["target_index"] = pairs.target_index
    from_noise = torch.full_like(pairs.seed_index, NOISE)
    tensors["seed_index"] = from_noise if recipe.start == "noise" else pairs.seed_index
    return {
        "checksum": draft.write(tensors),
        "images": len(pairs),
        "loss": round(tensors["loss"].mean().item(), 6),
        "converged": round(tensors["curve"][-1, 1].item(), 6),
    }
