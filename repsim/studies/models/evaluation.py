"""Evaluation of many trained models: their accuracy under attack, how they learned, what fools them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from repsim.attacks import AnyAttack, epsilon_text, run_attack
from repsim.data import Dataset, Split
from repsim.support.labels import check_one_class
from repsim.support.progress import progress_bar
from repsim.training import accuracy, predict
from repsim.training.model_store import TrainedModel, measure, only_stored


def accuracy_table(
    models: Iterable[TrainedModel], dataset: Dataset, attacks: Sequence[AnyAttack], *, progress: bool = True
) -> pd.DataFrame:
    """Test accuracy of every model under every attack: from its record, or measured and recorded now.

    Returns
    -------
    DataFrame
        One row per model and attack: the model's labels (its `epsilon` is what it was trained with), then
        `attack` (its name), `attack_norm`, `attack_epsilon`, `attack_steps`, `images` (how many) and
        `accuracy`.
    """
    names = {"norm": "attack_norm", "epsilon": "attack_epsilon", "steps": "attack_steps"}
    tables = []
    for model in progress_bar(only_stored(models), "accuracy", "model", progress):
        measured = measure(model, dataset, attacks).rename(columns=names)
        tables.append(measured.assign(**model.labels)[[*model.labels, *measured.columns]])
    return pd.concat(tables, ignore_index=True)


def transfer_table(models: Iterable[TrainedModel], split: Split, attack: AnyAttack) -> pd.DataFrame:
    """Accuracy of every model on adversarial images made to fool every other.

    Returns
    -------
    DataFrame
        One row per pair: `source`, `target`, `attack` (its name), `norm`, `epsilon`, `accuracy` (of the
        target).
    """
    models = only_stored(models)
    rows = []
    for source in models:
        images = run_attack(source.network, split.images, split.labels, attack)
        rows += [
            {
                "source": source.name,
                "target": target.name,
                "attack": attack.name,
                "norm": attack.norm,
                "epsilon": attack.epsilon,
                "accuracy": accuracy(target.network, images, split.labels),
            }
            for target in models
        ]
    return pd.DataFrame(rows)


def curve_table(models: Iterable[TrainedModel]) -> pd.DataFrame:
    """Training curves: the models' labels, `epoch`, `learning_rate`, `loss`, `accuracy` (as they saw it)."""
    tables = [model.curve.assign(**model.labels)[[*model.labels, *model.curve.columns]] for model in models]
    return pd.concat(tables, ignore_index=True)


def adversarial_examples(
    models: Iterable[TrainedModel], split: Split, attack: AnyAttack
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Each model's adversarial versions of some images, and what it takes them for.

    Returns
    -------
    tuple
        Name of a row of images → images: the originals, and for each model the attacked ones and what was
        added, stretched to full contrast with grey for nothing; and a table with one row per model and image:
        the model's labels, `image`, `label`, `prediction` and `confidence` on the adversarial image.
    """
    rows = {"test image": split.images}
    tables = []
    for model in models:
        name = f"trained at ε = {epsilon_text(model.recipe.epsilon)}"
        if f"{name}: attacked" in rows:  # another model has the same ε
            name = f"{name} ({model.name})"
        rows[f"{name}: attacked"], rows[f"{name}: added"], table = _examples(model, split, attack)
        tables.append(table.assign(**model.labels)[[*model.labels, *table.columns]])
    return rows, pd.concat(tables, ignore_index=True)


def attack_examples(
    model: TrainedModel, split: Split, attacks: Mapping[str, AnyAttack]
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Some images as each of several attacks changes them to fool one model, and what it takes them for.

    Parameters
    ----------
    attacks
        Title → attack.

    Returns
    -------
    tuple
        As `adversarial_examples`, but one after the other for each attack; the table begins with `attack`
        (its title), and has `attack_norm` and `attack_epsilon` after the model's labels.
    """
    rows = {"test image": split.images}
    tables = []
    for title, attack in attacks.items():
        rows[title], rows[f"{title}: added"], table = _examples(model, split, attack)
        labels = {"attack": title, **model.labels}
        labels |= {"attack_norm": attack.norm, "attack_epsilon": attack.epsilon}
        tables.append(table.assign(**labels)[[*labels, *table.columns]])
    return rows, pd.concat(tables, ignore_index=True)


def _examples(model: TrainedModel, split: Split, attack: AnyAttack) -> tuple[Tensor, Tensor, pd.DataFrame]:
    """Attacked images, what was added to them, made visible, and what the model answers."""
    check_one_class(split.labels, "what images are taken for needs")
    adversarial = run_attack(model.network, split.images, split.labels, attack)
    added = adversarial - split.images
    largest = added.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    confidence, prediction = F.softmax(predict(model.network, adversarial), dim=1).max(1)
    table = pd.DataFrame(
        {
            "image": range(len(split)),
            "label": split.labels.numpy(),
            "prediction": prediction.numpy(),
            "confidence": confidence.numpy(),
        }
    )
    return adversarial, 0.5 + 0.5 * added / largest, table
