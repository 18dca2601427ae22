"""Stitches as artifacts: found by their recipe, fitted where missing, saved before they are measured.

A stitch is two files under `data/stitches/<dataset>/`: what was learned, `<address>.safetensors`, and its
record, `<address>.json`. Those that come with the repository are packed, all of a data set's in two files.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from repsim.studies.stitching.evaluation import Evaluation, donors_of
from repsim.studies.stitching.fitting import CURVE, stitch
from repsim.studies.stitching.layouts import Layout
from repsim.studies.stitching.measuring import measure_stitch
from repsim.studies.stitching.network import StitchedNetwork, splice
from repsim.studies.stitching.options import StitchOptions
from repsim.studies.stitching.recipe import StitchRecipe
from repsim.studies.stitching.transforms import Transform
from repsim.support import artifacts, paths

PACK = "committed"  # the name of the packed stitches' files
RECORDED = ("recipe", "shapes", "checksum", "curve", "measured")  # what is read again


@dataclass(frozen=True)
class Stitch:
    """A stored stitch: its recipe, its record and where it is."""

    recipe: StitchRecipe
    record: dict
    file: Path
    prefix: str = ""  # of its tensors' names in a pack

    @property
    def learned(self) -> dict[str, Tensor]:
        """What fitting has found: see `StitchedNetwork.learned`."""
        return _part(_read_tensors(self.file, self.record["checksum"]), self.prefix)

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
        """What has been measured under these circumstances, None if nothing has.

        Parameters
        ----------
        truncated_to
            Of the transform truncated to this rank; 0: as it is.
        """
        wanted = {**evaluation.key, "truncated_to": truncated_to}
        return next((row for row in self.record["measured"] if wanted.items() <= row.items()), None)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def find_stitch(recipe: StitchRecipe) -> Stitch | None:
    """The stored stitch of a recipe, None where there is none."""
    for folder in paths.stitches():
        path = folder / recipe.dataset / f"{recipe.address}.json"
        if path.exists():
            record = artifacts.read_json(path)
            if missing := [key for key in RECORDED if key not in record]:
                raise artifacts.DamagedArtifact(f"{path} is no record of a stitch (no {', '.join(missing)}).")
            return Stitch(recipe, record, path.with_suffix(".safetensors"))
        pack = path.with_name(f"{PACK}.json.gz")
        if pack.exists() and (record := _read_pack(pack, pack.stat().st_mtime_ns).get(recipe.address)):
            return Stitch(recipe, record, path.with_name(f"{PACK}.safetensors"), f"{recipe.address}.")
    return None


@functools.lru_cache(maxsize=8)
def _read_pack(path: Path, changed: int) -> dict[str, dict]:
    """The records of a pack; `changed` is when the file was, so that a new one is read again."""
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise artifacts.DamagedArtifact(
            f"{path} is damaged ({error}): take it from the repository."
        ) from error
    return {
        address: {**record, "checksum": content["checksum"]}
        for address, record in content["stitches"].items()
    }


@functools.lru_cache(maxsize=4)
def _read_tensors(file: Path, checksum: str) -> dict[str, Tensor]:
    return artifacts.read_tensors(file, checksum)


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
    ranks = [0, *truncations]
    stored = None if recompute else find_stitch(recipe)
    if stored is not None and all(stored.measured(evaluation, rank) for rank in ranks):
        return stored
    path = paths.stitches()[0] / recipe.dataset / f"{recipe.address}.json"
    with artifacts.locked(path):
        stored = None if recompute else find_stitch(recipe)  # another process may have made it meanwhile
        if stored is None:
            stored = _make(recipe, evaluation, path)
        for rank in ranks:
            if not stored.measured(evaluation, rank):
                stored = _add(stored, _measure(stored, evaluation, rank), path)
        return stored


def _add(stored: Stitch, row: dict[str, object], path: Path) -> Stitch:
    """Write a measurement into the record. A stitch from elsewhere becomes one of the user's own."""
    record = {**stored.record, "measured": [*stored.record["measured"], row]}
    if stored.file != path.with_suffix(".safetensors"):
        record["checksum"] = artifacts.write_tensors(path.with_suffix(".safetensors"), stored.learned)
    artifacts.write_json(path, record)
    return find_stitch(stored.recipe)


def _make(recipe: StitchRecipe, evaluation: Evaluation, path: Path) -> Stitch:
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
    path.unlink(missing_ok=True)  # of an earlier fit, whose tensors are now replaced
    layout = stitched.transform.layout
    record = {
        "recipe": dataclasses.asdict(recipe),
        "shapes": [list(layout.front), list(layout.end)],
        "channel_axes": [layout.front_axis, layout.end_axis],
        "checksum": artifacts.write_tensors(path.with_suffix(".safetensors"), learned),
        "curve": curve.round(6).to_dict("records"),
        "measured": [],
    }
    artifacts.write_json(path, record)
    return find_stitch(recipe)


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
    """All stitches of a data set (by its slug), the user's own and the packed ones.

    Those that were fitted when their recipe's options meant something else are at another address, and no
    longer stitches of it.
    """
    recipes: dict[str, dict] = {}
    for folder in reversed(paths.stitches()):
        pack = folder / dataset / f"{PACK}.json.gz"
        if pack.exists():
            packed = _read_pack(pack, pack.stat().st_mtime_ns)
            recipes |= {address: record["recipe"] for address, record in packed.items()}
        own = sorted((folder / dataset).glob("*.json"))
        recipes |= {path.stem: artifacts.read_json(path)["recipe"] for path in own}
    found = {
        address: StitchRecipe(**{**recipe, "options": StitchOptions(**recipe["options"])})
        for address, recipe in recipes.items()
    }
    current = [recipe for address, recipe in found.items() if recipe.address == address]
    return list(filter(None, map(find_stitch, current)))


def pack(dataset: str) -> Path:
    """Put all stitches of a data set into the two files that come with the repository, and nowhere else."""
    stitches = stored_stitches(dataset)
    tensors = {f"{each.recipe.address}.{name}": t for each in stitches for name, t in each.learned.items()}
    records = {
        each.recipe.address: {key: value for key, value in each.record.items() if key != "checksum"}
        for each in stitches
    }
    folder = paths.stitches()[0] / dataset
    path = folder / f"{PACK}.json.gz"
    checksum = artifacts.write_tensors(folder / f"{PACK}.safetensors", dict(sorted(tensors.items())))
    text = json.dumps({"checksum": checksum, "stitches": records}, sort_keys=True, allow_nan=False)
    with artifacts.atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
    for each in stitches:
        if not each.prefix and each.file.parent == folder:
            each.file.with_suffix(".json").unlink()
            each.file.unlink()
            each.file.with_name(f".{each.file.stem}.json.lock").unlink(missing_ok=True)
    return path
