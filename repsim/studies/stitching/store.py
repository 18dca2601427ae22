"""Stitches as artifacts: found by their recipe, fitted where missing, saved before they are measured.

A stitch is two files under `data/stitches/<dataset>/`: what was learned, `<address>.safetensors`, and its
record, `<address>.json`. Those that come with the repository are packed, all of a data set's in two files;
see `repsim.store`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from repsim.store import Artifact, Draft, Store
from repsim.studies.stitching.evaluation import Evaluation, donors_of
from repsim.studies.stitching.fitting import CURVE, stitch
from repsim.studies.stitching.layouts import Layout
from repsim.studies.stitching.measuring import measure_stitch
from repsim.studies.stitching.network import StitchedNetwork, splice
from repsim.studies.stitching.recipe import StitchRecipe
from repsim.studies.stitching.transforms import Transform
from repsim.support import paths


@dataclass(frozen=True)
class Stitch(Artifact):
    """A stored stitch: its recipe, its record and where it is."""

    recipe: StitchRecipe

    @property
    def learned(self) -> dict[str, Tensor]:
        """The changes by fitting: see `StitchedNetwork.learned`."""
        return self.tensors()

    @property
    def transform(self) -> Transform:
        """The transform as it was found."""
        shapes, options = self.record["shapes"], self.recipe.options
        axes = self.record.get("channel_axes", [None, None])  # older records are of usual layouts
        layout = Layout(tuple(shapes[0]), tuple(shapes[1]), options.flatten, options.resize, *axes)
        return Transform.restored(layout, _part(self.learned, "transform."))

    @property
    def curve(self) -> pd.DataFrame:
        """One row per epoch of fitting: `epoch`, `learning_rate`, `loss`, `accuracy`."""
        return pd.DataFrame(self.record["curve"], columns=CURVE)

    @property
    def history(self) -> dict[int, dict[str, Tensor]]:
        """Epoch → the transform's tensors after it, for the epochs that were kept (`save_every`)."""
        found: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(self.learned, "epoch.").items():
            epoch, _, rest = name.partition(".")
            found.setdefault(int(epoch), {})[rest] = tensor
        return dict(sorted(found.items()))

    def network(self, evaluation: Evaluation, transform: Transform | None = None) -> StitchedNetwork:
        """The stitched network, exactly as it was, or with another transform in its place."""
        recipe = self.recipe
        front, end = donors_of(recipe, evaluation)
        found = splice(
            front.graph,
            end.graph,
            recipe.layer_front,
            recipe.layer_end,
            transform or self.transform,
            cross_task=recipe.cross_task,
        )
        found.restore_batchnorm(self.learned)
        return found.eval()

    def measured(self, evaluation: Evaluation, truncated_to: int = 0) -> dict | None:
        """The measurements under these circumstances, None if there are none.

        Parameters
        ----------
        truncated_to
            Of the transform truncated to this rank; 0: as it is.
        """
        wanted = {**evaluation.key, "truncated_to": truncated_to}
        return next((row for row in self.record["measured"] if wanted.items() <= row.items()), None)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


STITCHES = Store(
    "stitches",
    lambda: paths.stitches(),
    StitchRecipe,
    Stitch,
    ("recipe", "shapes", "checksum", "curve", "measured"),
    packed="stitches",
)


def find_stitch(recipe: StitchRecipe) -> Stitch | None:
    """The stored stitch of a recipe, None where there is none."""
    return STITCHES.find(recipe)


def obtain_stitch(
    recipe: StitchRecipe,
    evaluation: Evaluation,
    *,
    truncations: Sequence[int] = (),
    recompute: bool = False,
) -> Stitch:
    """The stitch of a recipe: from the store, else fitted, saved, and then measured.

    Two processes that ask for the same stitch make it once. What is measured is added to the record.

    Parameters
    ----------
    truncations
        Ranks; measure, too, what is left of it when a copy of the transform is truncated to them.
    recompute
        Fit and measure it again though it is stored.

    Raises
    ------
    ValueError
        The recipe is for other images than those that the evaluation's stitches are fitted on; or what
        `stitch` refuses.
    """
    dataset = evaluation.fitted_on
    if (recipe.dataset, recipe.fingerprint) != (dataset.slug, dataset.fingerprint):
        raise ValueError(
            f"the stitch is for {recipe.dataset} ({recipe.fingerprint}), the data set is {dataset.slug} "
            f"({dataset.fingerprint}): make the recipe with StitchRecipe.of(…, dataset)."
        )
    found = STITCHES.obtain(recipe, lambda draft: _make(recipe, evaluation, draft), again=recompute)
    for rank in (0, *truncations):
        if not found.measured(evaluation, rank):
            found = STITCHES.add(recipe, lambda stored, rank=rank: _add(stored, evaluation, rank))
    return found


def _add(stored: Stitch | None, evaluation: Evaluation, rank: int) -> dict[str, object] | None:
    """The record of a stitch with one more measurement, None where another process has measured it."""
    if stored is None or stored.measured(evaluation, rank):
        return None
    return {**stored.record, "measured": [*stored.record["measured"], _measure(stored, evaluation, rank)]}


def _make(recipe: StitchRecipe, evaluation: Evaluation, draft: Draft) -> dict[str, object]:
    options, dataset = recipe.options, evaluation.fitted_on
    front, end = donors_of(recipe, evaluation)
    history: dict[str, Tensor] = {}

    def keep(epoch: int, stitched: StitchedNetwork) -> None:
        if options.save_every and epoch % options.save_every == 0:
            state = stitched.transform.state_dict().items()
            history.update({f"epoch.{epoch}.{name}": tensor.clone() for name, tensor in state})

    stitched, curve = stitch(
        front.graph,
        end.graph,
        recipe.layer_front,
        recipe.layer_end,
        dataset.train.images,
        dataset.train.labels,
        options,
        augmentation=dataset.augmentation,
        cross_task=recipe.cross_task,
        on_epoch=keep,
        progress=False,
    )
    learned = {**stitched.learned(with_batchnorm=options.update_batchnorm), **history}
    layout = stitched.transform.layout
    return {
        "shapes": [list(layout.front), list(layout.end)],
        "channel_axes": [layout.front_axis, layout.end_axis],
        "checksum": draft.write(learned),
        "curve": curve.round(6).to_dict("records"),
        "measured": [],
    }


def _measure(stored: Stitch, evaluation: Evaluation, rank: int) -> dict[str, object]:
    recipe = stored.recipe
    row = measure_stitch(
        stored.network(evaluation, stored.transform.truncated(rank) if rank else None),
        *donors_of(recipe, evaluation),
        recipe.layer_front,
        recipe.layer_end,
        with_autoattack=evaluation.with_autoattack,
    )
    # JSON has no NaN: what is not there is undefined
    defined = {name: round(value, 6) for name, value in row.items() if not math.isnan(value)}
    return {**evaluation.key, "truncated_to": rank, **defined}


def stored_stitches(dataset: str) -> list[Stitch]:
    """All stitches of a data set (by its slug), the user's own and the packed ones."""
    return STITCHES.listed(dataset)


def pack(dataset: str) -> Path:
    """Put all stitches of a data set into the two files that come with the repository, and nowhere else."""
    return STITCHES.pack(dataset)
