"""Block structure of many trained models, and how far adversarial inputs travel through them ([C])."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from repsim.activations import Layers, trace
from repsim.attacks import AnyAttack, run_attack
from repsim.data import Split
from repsim.measures.representation import Memory
from repsim.studies.cka_maps.layer_maps import (
    as_matrix,
    block_strength,
    last_minus_first_third,
    layer_cka,
    matched_cka,
    mean_off_diagonal,
)
from repsim.support import artifacts
from repsim.support.progress import progress_bar
from repsim.training import accuracy
from repsim.training.model_store import TrainedModel, only_stored

# Maps, curves over depth and the comparison of attacks look at the same adversarial images.
_ATTACKED = Memory(limit=2**28)


def _adversarial(model: TrainedModel, split: Split, attack: AnyAttack) -> Float[Tensor, "n c h w"]:
    """Adversarial versions of images, made to fool a model; those of last are not made again."""
    key = (model.weights, artifacts.digest(split.images, split.labels), attack)
    return _ATTACKED.recall(key, lambda: run_attack(model.network, split.images, split.labels, attack))


def maps(
    pairs: Mapping[str, tuple[TrainedModel, TrainedModel]],
    split: Split,
    *,
    attack: AnyAttack | None = None,
    layers: Layers = "all",
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """The map of every layer with every layer for each pair of models.

    Parameters
    ----------
    pairs
        Title → two models; the same one twice for the map of a model with itself.
    attack
        Show each model the adversarial versions of the images, made to fool itself.
    options
        For `layer_cka`.

    Returns
    -------
    DataFrame
        The rows of `layer_cka`, after `pair`, the title.
    """
    inputs = {}
    for model in {model.name: model for pair in pairs.values() for model in pair}.values():
        seen = split.images if attack is None else _adversarial(model, split, attack)
        inputs[model.name] = (model.graph, seen)
    tables = []
    for title, (first, second) in progress_bar(pairs.items(), "maps", "map", progress):
        (graph_a, images_a), (graph_b, images_b) = inputs[first.name], inputs[second.name]
        table = layer_cka(
            graph_a,
            graph_b,
            (images_a, images_b),
            layers_a=layers,
            layers_b=layers,
            names=(first.name, second.name),
            progress=False,
            **options,
        )
        table.insert(0, "pair", title)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def block_structure(
    models: Iterable[TrainedModel],
    images: Float[Tensor, "n c h w"],
    *,
    layers: Layers = "all",
    every_epoch: bool = False,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """The block structure of each model, from its map of every layer with every layer.

    Parameters
    ----------
    every_epoch
        Measure each epoch whose weights were kept, not the last one only.
    options
        For `layer_cka`.

    Returns
    -------
    DataFrame
        One row per model and epoch: what tells the models apart (see `TrainedModel.labels`), `epoch`,
        `block_strength` and `mean_cka` (of different layers).
    """
    rows = []
    for model in progress_bar(only_stored(models), "block structure", "model", progress):
        for epoch in model.epochs_saved if every_epoch else [model.recipe.epochs]:
            graph = trace(model.at_epoch(epoch), images.shape[1:])
            table = layer_cka(
                graph, graph, images, layers_a=layers, layers_b=layers, progress=False, **options
            )
            matrix = as_matrix(table)
            strengths = {"block_strength": block_strength(matrix), "mean_cka": mean_off_diagonal(matrix)}
            rows.append({**model.labels, "epoch": epoch, **strengths})
    return pd.DataFrame(rows)


def natural_vs_adversarial(
    models: Iterable[TrainedModel],
    split: Split,
    attack: AnyAttack,
    *,
    layers: Layers = "all",
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """CKA of each layer on natural images with itself on adversarial ones, each model attacked by itself.

    Returns
    -------
    DataFrame
        One row per model and layer: the model's labels, `attack_norm`, `attack_epsilon`, `accuracy` (of the
        model on the adversarial images), `layer`, `depth` (0 at the first layer, 1 at the last) and `value`.
    """
    tables = []
    for model in progress_bar(only_stored(models), "natural vs adversarial", "model", progress):
        adversarial = _adversarial(model, split, attack)
        table = matched_cka(
            model.network, split.images, adversarial, layers=layers, progress=False, **options
        )
        labels = {**model.labels, "attack_norm": attack.norm, "attack_epsilon": attack.epsilon}
        labels["accuracy"] = accuracy(model.network, adversarial, split.labels)
        tables.append(table.assign(**labels)[[*labels, *table.columns]])
    return pd.concat(tables, ignore_index=True)


def by_attack(
    models: Iterable[TrainedModel], split: Split, attacks: Mapping[str, AnyAttack], **options
) -> pd.DataFrame:
    """`natural_vs_adversarial` for several attacks: its rows, after `attack`, the attack's name."""
    models = only_stored(models)
    tables = [
        natural_vs_adversarial(models, split, attack, **options).assign(attack=name)
        for name, attack in attacks.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["attack", *table.columns.drop("attack")]]


def parting(table: pd.DataFrame) -> pd.DataFrame:
    """The parting of natural and adversarial inputs on their way through each model.

    Parameters
    ----------
    table
        As `natural_vs_adversarial` gives it.

    Returns
    -------
    DataFrame
        One row per model: its labels and `parting`, the mean CKA of the first third of the layers minus
        that of the last third.
    """
    labels = [name for name in table.columns if name not in ("layer", "depth", "value")]
    return (-last_minus_first_third(table, labels)).rename("parting").reset_index()
