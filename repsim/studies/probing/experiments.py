"""Tables of probes: how accurate they are layer by layer, and how far those of different networks agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from repsim.activations import Layers, Observation
from repsim.attacks import Attack, run_attack
from repsim.data import Dataset
from repsim.measures import PREDICTION_MEASURES, PredictionMeasure
from repsim.measures.comparing import Measures
from repsim.studies.cka_maps import last_minus_first_third
from repsim.studies.comparison import LABELS, OUTPUT, Activations, Query, Value, finished, pairs_within
from repsim.studies.probing.options import ProbeOptions
from repsim.studies.probing.store import observer_of, obtain_probes
from repsim.support.progress import progress_bar
from repsim.training.model_store import TrainedModel, only_stored

OWN = "own"  # the classifier that a network was trained with


def probe_accuracy(
    models: Iterable[TrainedModel],
    dataset: Dataset,
    options: ProbeOptions | None = None,
    layers: Layers = "blocks",
    *,
    attack: Attack | None = None,
    attacked: int = 500,
    progress: bool = True,
) -> pd.DataFrame:
    """Accuracy of the classes read from each layer, on the images that probes have seen and on others.

    Parameters
    ----------
    attack
        Read them from adversarial versions of test images too, each network attacked by itself.
    attacked
        How many test images are attacked, at most.

    Returns
    -------
    DataFrame
        One row per model, layer and inputs: the model's labels, `layer`, `depth` (0 at the first layer, 1 at
        the last), `inputs` (`training`, `test`, `adversarial`), `attack_norm` and `attack_epsilon` (0 where
        there is none), `classifier`, `images` and `accuracy`.

    Raises
    ------
    ValueError
        A model is for images of another shape, has no such layer, or is to be attacked on other classes than
        its own.
    """
    options = options or ProbeOptions()
    rows = []
    for model in progress_bar(only_stored(models), "probe accuracy", "model", progress):
        if attack is not None:
            model.check_class_names(dataset)
        probes = obtain_probes([model], dataset, [options], layers, progress=False)
        inputs = {"training": dataset.train, "test": dataset.test}
        shown = {name: (split.images, split.labels) for name, split in inputs.items()}
        if attack is not None:
            some = dataset.test.subset(attacked)
            shown["adversarial"] = run_attack(model.network, some.images, some.labels, attack), some.labels
        observer = observer_of(model.graph, [each.recipe for each in probes])
        depths = np.linspace(0, 1, len(probes))
        for name, (images, labels) in shown.items():
            features = observer.observe(images).values
            own = attack if name == "adversarial" else Attack(0.0, model.recipe.norm)
            for stored, depth in zip(probes, depths, strict=True):
                layer = stored.recipe.layer
                rows.append(
                    {
                        **model.labels,
                        "layer": layer,
                        "depth": depth,
                        "inputs": name,
                        "attack_norm": own.norm,
                        "attack_epsilon": own.epsilon,
                        "classifier": options.label,
                        "images": len(labels),
                        "accuracy": stored.probe.accuracy(features[layer], labels),
                    }
                )
    return pd.DataFrame(rows)


def accuracy_drop(table: pd.DataFrame) -> pd.DataFrame:
    """The loss of accuracy of each probe from the images that it was fitted to to test images.

    Parameters
    ----------
    table
        As `probe_accuracy` gives it.

    Returns
    -------
    DataFrame
        One row per model and layer: the model's labels, `layer`, `depth`, `training` and `test` (accuracies),
        and `drop`, the one minus the other.
    """
    by_inputs = table.pivot(index=[*LABELS, "layer", "depth"], columns="inputs", values="accuracy")
    both = by_inputs[["training", "test"]].rename_axis(columns=None).reset_index()
    return both.assign(drop=both["training"] - both["test"]).sort_values(
        [*LABELS, "depth"], ignore_index=True
    )


def overfitting(table: pd.DataFrame) -> pd.DataFrame:
    """The overfitting of deep layers: what they know of the training images only, beyond the first layers.

    Parameters
    ----------
    table
        As `probe_accuracy` gives it.

    Returns
    -------
    DataFrame
        One row per model: its labels and `overfitting`, the mean drop of probe accuracy from training to test
        images over the last third of the layers minus that over the first.
    """
    drops = accuracy_drop(table).rename(columns={"drop": "value"})
    return last_minus_first_third(drops, list(LABELS)).rename("overfitting").reset_index()


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of several classifiers of each model's representations to the test images of a data set.

    Attributes
    ----------
    logits
        By classifier (`own`, and probes by the labels of their options) and by the names of the models.
    """

    models: Mapping[str, TrainedModel]
    dataset: Dataset
    logits: Mapping[str, Mapping[str, Tensor]]

    def agreement(
        self,
        measures: Measures = ("agreement", "normalized_disagreement"),
        *,
        within: Sequence[str] = ("epsilon",),
    ) -> pd.DataFrame:
        """Measures of the predictions of all pairs of models, of each classifier.

        Parameters
        ----------
        within
            Labels in which the two models of a pair are alike.

        Returns
        -------
        DataFrame
            The columns of `compare_models`, with `classifier` before `measure`.

        Raises
        ------
        ValueError
            A measure is not one of predictions, or there is no pair to compare.
        """
        query = Query.of(list(PREDICTION_MEASURES) if measures == "all" else measures)
        for measure in query.measures:
            if not isinstance(measure, PredictionMeasure):
                raise ValueError(
                    f"classifiers are compared by their predictions, which {measure.label} is not of."
                )
        chosen = pairs_within(self.models, within)
        order = {name: place for place, name in enumerate(self.models)}
        pairs = [(a, b) for a, b in chosen if order[a] < order[b]]
        rows = []
        for classifier, logits in self.logits.items():
            observations = {name: Observation({}, own) for name, own in logits.items()}
            captured = Activations(observations, self.dataset.test.labels)
            for (a, b), measure in itertools.product(pairs, query.measures):
                value = Value(OUTPUT, a, b, measure)
                rows.append({**value.columns, "classifier": classifier, **captured.row(value, query)})
        return finished(rows, self.dataset, "natural", self.models)

    def within_models(self) -> pd.DataFrame:
        """The agreement of different classifiers of the same representation.

        Returns
        -------
        DataFrame
            One row per model and two classifiers: the model's labels, `classifier_a`, `classifier_b`,
            `agreement`.
        """
        classes = {
            classifier: {name: own.argmax(1) for name, own in logits.items()}
            for classifier, logits in self.logits.items()
        }
        return pd.DataFrame(
            [
                {
                    **model.labels,
                    "classifier_a": a,
                    "classifier_b": b,
                    "agreement": float((classes[a][name] == classes[b][name]).double().mean()),
                }
                for name, model in self.models.items()
                for a, b in itertools.combinations(classes, 2)
            ]
        )


def classify(
    models: Iterable[TrainedModel],
    dataset: Dataset,
    options: Sequence[ProbeOptions],
    *,
    layer: str = "penultimate",
    progress: bool = True,
) -> Answers:
    """The answers of each network's own classifier, and of probes of a layer, to the test images.

    Parameters
    ----------
    options
        The probes, fitted to the training images (or found in the store).

    Raises
    ------
    ValueError
        A model has other classes than the data set, or no such layer.
    """
    models = {model.name: model for model in only_stored(models)}
    for model in models.values():
        model.check_class_names(dataset)
    found: dict[str, dict[str, Tensor]] = {OWN: {}, **{each.label: {} for each in options}}
    for name, model in progress_bar(models.items(), "classifiers", "model", progress):
        probes = obtain_probes([model], dataset, options, layer, progress=False)
        for pool in sorted({stored.recipe.options.pool for stored in probes} or {True}):
            alike = [stored for stored in probes if stored.recipe.options.pool is pool]
            seen = observer_of(model.graph, [stored.recipe for stored in alike]).observe(dataset.test.images)
            found[OWN][name] = seen.logits
            for stored in alike:
                features = seen.values[stored.recipe.layer]
                found[stored.recipe.options.label][name] = stored.probe.logits(features)
    return Answers(models, dataset, found)
