"""Networks of which it is known what they can have used, and what their inverted images show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from repsim.attacks import epsilon_text
from repsim.data import Dataset
from repsim.data.synthetic import read_outline, read_texture
from repsim.studies.comparison.tables import both_orders, similarity_matrix
from repsim.studies.inversion import InvertedSet, Pairs
from repsim.training import zoo
from repsim.training.model_store import TrainedModel

EPSILON = 0.05  # of the committed robust networks
ORACLES = {"outline": read_outline, "texture": read_texture}


def used(model: TrainedModel) -> str:
    """The feature that a network can have used: `outline`, `texture` or `both`.

    Raises
    ------
    ValueError
        It was trained on other data.
    """
    features = {dataset: feature for feature, dataset in zoo.TWO_FEATURES.items()}
    if model.recipe.dataset not in features:
        raise ValueError(
            f"{model.name} was trained on {model.recipe.dataset}: only of networks trained on "
            f"{', '.join(features)} is it known what they can have used."
        )
    return features[model.recipe.dataset]


def feature_matrix(table: pd.DataFrame, models: Iterable[TrainedModel]) -> pd.DataFrame:
    """`similarity_matrix` of networks by ε and what they can have used."""
    known = {model.name: used(model) for model in models}
    order = [f"ε = {epsilon_text(e)}, {feature}" for e in (0.0, EPSILON) for feature in zoo.TWO_FEATURES]
    return similarity_matrix(
        table, lambda labels: f"ε = {epsilon_text(labels['epsilon'])}, {known[labels['model']]}", order
    )


def ends(models: Sequence[TrainedModel]) -> dict[str, TrainedModel]:
    """A standard and a robust network of each kind, by what figures call them."""
    found = {}
    for feature in zoo.TWO_FEATURES:
        of_kind = [model for model in models if used(model) == feature]
        for model in (of_kind[0], of_kind[-1]):
            found[f"{feature}, ε = {epsilon_text(model.recipe.epsilon)}"] = model
    return found


def with_features(table: pd.DataFrame, models: Iterable[TrainedModel]) -> pd.DataFrame:
    """A table of pairs with what both networks can have used: `used_a`, `used_b`."""
    known = {model.name: used(model) for model in models}
    return table.assign(used_a=table["model_a"].map(known), used_b=table["model_b"].map(known))


def bars_of_features(shown: pd.DataFrame) -> pd.DataFrame:
    """Rows of `features_shown` with the names of bars, `network` and `shown`; standard networks first."""
    named = shown.assign(
        network=shown["used"] + "\nε = " + shown["epsilon"].map(epsilon_text),
        shown=shown["feature"] + " of the " + shown["of"],
    )
    return named.sort_values("epsilon", kind="stable")


def features_shown(
    models: Iterable[TrainedModel], sets: Mapping[str, InvertedSet], pairs: Pairs, dataset: Dataset
) -> pd.DataFrame:
    """Shares of inverted images that show target's and seed's outline and texture, as the oracles read them.

    Parameters
    ----------
    sets
        By the names of the models.
    pairs
        That the sets are of, of the test images of `two_features` (`dataset`).

    Returns
    -------
    DataFrame
        One row per model, feature and whose it is: `used` (what the network can have used), the model's
        labels, `feature`, `of` (`target` or `seed`), `share` of the images that show it.
    """
    labels = dataset.test.labels.numpy()
    classes = {"target": labels[pairs.target_index], "seed": labels[pairs.seed_index]}
    rows = []
    for model in models:
        found = sets[model.name]
        found.check_model(model)
        found.check_pairs(pairs)
        for feature, read in ORACLES.items():
            shown = read(found.images.numpy())
            rows += [
                {
                    "used": used(model),
                    **model.labels,
                    "feature": feature,
                    "of": of,
                    "share": float((shown == wanted).mean()),
                }
                for of, wanted in classes.items()
            ]
    return pd.DataFrame(rows)


def told_apart(natural: pd.DataFrame, inverted: pd.DataFrame, used: Mapping[str, str]) -> list[float]:
    """The drop of similarity of robust outline and texture networks from natural images to inverted ones.

    Parameters
    ----------
    natural, inverted
        Tables of `repsim.studies.comparison.compare_models`, of one measure.
    used
        What each network can have used, by its name.

    Returns
    -------
    list
        One value for each seed: pairs of networks of one seed share none with the others.
    """
    values = []
    tables = [both_orders(natural), inverted]
    for table in tables:
        kinds = pd.DataFrame({side: table[f"model_{side}"].map(used) for side in ("a", "b")})
        across = (kinds["a"] != kinds["b"]) & (kinds != "both").all(axis=1)
        robust = (table["epsilon_a"] > 0) & (table["epsilon_b"] > 0)
        chosen = table[across & robust & (table["seed_a"] == table["seed_b"])]
        values.append(chosen.groupby("seed_a")["value"].mean())
    return (values[0] - values[1]).tolist()


def carried(shown: pd.DataFrame, feature: str) -> list[float]:
    """The share of each robust network's images that show the target's feature that it used, less the other.

    Parameters
    ----------
    shown
        As `features_shown` gives it.
    """
    chosen = shown[(shown["used"] == feature) & (shown["epsilon"] > 0) & (shown["of"] == "target")]
    shares = chosen.pivot_table("share", "seed", "feature")
    (other,) = set(shares.columns) - {feature}
    return (shares[feature] - shares[other]).tolist()
