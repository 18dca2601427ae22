"""Networks of which it is known what they can have used, and what their inverted images show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from repsim.data import Dataset, load_data
from repsim.data.synthetic import read_outline, read_texture
from repsim.studies.comparison import both_orders
from repsim.studies.inversion import InvertedSet, Pairs
from repsim.training import Recipe, zoo
from repsim.training.model_store import TrainedModel, obtain_all

EPSILON = 0.05  # of the committed robust networks
ORACLES = {"outline": read_outline, "texture": read_texture}


def network_recipes(seeds: int) -> list[tuple[Dataset, list[Recipe]]]:
    """Recipes of standard and robust networks that can have used the outline, the texture, or both."""
    datasets = [load_data(name) for name in zoo.TWO_FEATURES.values()]
    return [(data, zoo.recipes(data, [zoo.MAIN], [0.0, EPSILON], range(seeds))) for data in datasets]


def obtain_networks(seeds: int, device: str = "auto") -> list[TrainedModel]:
    """The networks of `network_recipes`."""
    found = []
    for data, recipes in network_recipes(seeds):
        found += obtain_all(recipes, data, device=device)
    return found


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
