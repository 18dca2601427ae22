"""The claims of notebooks 03 (inversion, ground truth), 04 (universality) and 05 (subgroups)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from repsim.attacks import epsilon_text
from repsim.statistics import significance, verdicts
from repsim.studies.comparison import ground_truth
from repsim.studies.comparison.tables import mean_similarity, repeated_levels, several
from repsim.training.model_store import TrainedModel

INVERSION_PAPER = "nine ImageNet architectures, one network each, ε = 0 to 3 (L2), 2,000 iterations"
UNIVERSALITY_PAPER = "7 architectures, ImageNet, ImageNet-100 and CIFAR-10, L2 up to ε = 3"
SUBGROUP_PAPER = "7 architectures, one network each, ImageNet, L2 ε = 0 and 3"


# -- notebook 03 --------------------------------------------------------------------------------------------


def inversion_claims(
    natural: pd.DataFrame, inverted: pd.DataFrame, models: Sequence[TrainedModel], measure: str
) -> list[verdicts.Verdict]:
    """Judge how alike networks are on natural and on inverted images, by leaving out architectures.

    Parameters
    ----------
    natural, inverted
        Tables of `compare_models`, of one measure.
    models
        The networks that they are of.
    measure
        What the measure is called.
    """
    apart = verdicts.Claim(
        "natural images make standard networks look more alike than they are",
        "[J]",
        f"{measure} among standard networks, natural − inverted",
        f"{INVERSION_PAPER} (natural CKA 0.67 on average)",
    )
    rising = verdicts.Claim(
        "similarity rises with robustness",
        "[J]",
        f"slope over ε of inverted {measure} among networks of one ε",
        INVERSION_PAPER,
    )
    towards = verdicts.Claim(
        "similarity rises with robustness, also towards standard networks",
        "[J]",
        f"slope over ε of inverted {measure} of networks of each ε (their images) with standard ones",
        INVERSION_PAPER,
    )
    architectures = list(dict.fromkeys(model.recipe.architecture for model in models))
    levels = sorted({model.recipe.epsilon for model in models})

    def among(table: pd.DataFrame, kept: list[str], epsilon_a: float, epsilon_b: float) -> float:
        return mean_similarity(table, architectures=kept, epsilon_a=epsilon_a, epsilon_b=epsilon_b)

    def gap(kept: list[str]) -> float:
        return among(natural, kept, 0.0, 0.0) - among(inverted, kept, 0.0, 0.0)

    def slope(kept: list[str]) -> float:
        return float(np.polyfit(levels, [among(inverted, kept, e, e) for e in levels], 1)[0])

    def slope_towards(kept: list[str]) -> float:
        return float(np.polyfit(levels, [among(inverted, kept, e, 0.0) for e in levels], 1)[0])

    if repeated_levels(models) != levels:  # no pair of one ε
        return []
    statistics: list[tuple[verdicts.Claim, Callable[[list[str]], float]]] = []
    if 0.0 in levels:
        statistics.append((apart, gap))
    if len(levels) > 1:
        statistics.append((rising, slope))
    if 0.0 in levels and len(levels) > 1:
        statistics.append((towards, slope_towards))
    return [verdicts.jackknife(claim, of, architectures, "architectures") for claim, of in statistics]


def ground_truth_claims(
    natural: pd.DataFrame,
    inverted: pd.DataFrame,
    shown: pd.DataFrame,
    models: Iterable[TrainedModel],
    measure: str,
) -> list[verdicts.Verdict]:
    """Judge inversion where it is known what networks can have used.

    Parameters
    ----------
    natural, inverted
        Tables of `compare_models`, of one measure.
    shown
        As `ground_truth.features_shown` gives it.
    models
        The networks that they are of.
    measure
        What the measure is called.
    """
    robust, paper_used = f"robust networks (ε = {epsilon_text(ground_truth.EPSILON)})", "no published check"
    apart = verdicts.Claim(
        "inversion tells apart networks that use different features",
        "repsim",
        f"{measure} of outline with texture networks, natural − inverted; {robust}",
        paper_used,
    )
    used = {model.name: ground_truth.used(model) for model in models}
    decided = [verdicts.mean(apart, ground_truth.told_apart(natural, inverted, used))]
    for feature, other in (("outline", "texture"), ("texture", "outline")):
        carried = verdicts.Claim(
            f"images inverted through {feature} networks carry the target's {feature}, not its {other}",
            "repsim",
            f"share that shows the target's {feature} − share that shows its {other}; {robust}",
            paper_used,
        )
        decided.append(verdicts.mean(carried, ground_truth.carried(shown, feature)))
    return decided


# -- notebook 04 --------------------------------------------------------------------------------------------


def universality_claims(
    representations: pd.DataFrame, predictions: pd.DataFrame, datasets: Sequence[str], measure: str
) -> list[verdicts.Verdict]:
    """Judge whether similarity differs between data sets, and whether predictions converge.

    Parameters
    ----------
    representations, predictions
        Tables of `compare_models`: of measures of representations on natural and inverted images, and of
        predictions.
    datasets
        Their names; the others are compared with the first.
    measure
        By which representations are judged.
    """
    first, *others = datasets
    decided = []
    for inputs in ("natural", "inverted"):
        table = several(representations[representations["inputs"] == inputs])
        there = set(table.loc[table["epsilon_a"] > 0, "dataset"])
        for other in others:
            if {first, other} <= there:
                decided.append(_differs(table, first, other, inputs, measure))
            else:
                print(f"no verdict on {first} and {other}: fewer than three robust networks of one ε")
    natural = several(representations[representations["inputs"] == "natural"])
    answered = several(predictions[predictions["inputs"] == "natural"])
    for dataset in datasets:
        seen = _networks(natural, measure, dataset)
        said = {e: 1 - d for e, d in _networks(answered, "normalized_disagreement", dataset).items()}
        if len(seen) < 2:
            print(f"no verdict over ε on {dataset}: fewer than three networks of each of two ε")
            continue
        decided += _converges(seen, said, dataset, measure)
    return decided


def _networks(table: pd.DataFrame, measure: str, dataset: str) -> dict[float, pd.Series]:
    """Training ε → one number per network."""
    part = table[(table["measure"] == measure) & (table["dataset"] == dataset)]
    return {level: significance.of_models(rows) for level, rows in part.groupby("epsilon_a")}


def _differs(table: pd.DataFrame, first: str, other: str, inputs: str, measure: str) -> verdicts.Verdict:
    """The claim that the mean similarity of robust networks is not the same on two data sets."""
    claim = verdicts.Claim(
        f"similarity of robust networks differs between {first} and {other}, {inputs} images",
        "[K]",
        f"mean {measure} of pairs of one ε > 0, {first} − {other} (either way)",
        UNIVERSALITY_PAPER,
        either_way=True,
    )
    groups, weights = [], []
    for dataset, sign in ((first, 1), (other, -1)):
        robust = [of for level, of in _networks(table, measure, dataset).items() if level > 0]
        groups += robust
        weights += [sign / len(robust)] * len(robust)
    return verdicts.contrast(claim, groups, weights)


def _converges(
    seen: Mapping[float, pd.Series], said: Mapping[float, pd.Series], dataset: str, measure: str
) -> list[verdicts.Verdict]:
    """The claims on slopes over ε, of representations and of agreement."""

    def claim(text: str, effect: str) -> verdicts.Claim:
        return verdicts.Claim(f"{text} ({dataset})", "[K]", f"{effect}, natural images", UNIVERSALITY_PAPER)

    rises = verdicts.slope_of_means(
        claim("representations become more alike with ε", f"slope of {measure} over ε"),
        list(seen),
        list(seen.values()),
    )
    more = claim(
        "predictions agree more, beyond what accuracy makes them", "slope of normalised agreement over ε"
    )
    agree = verdicts.slope_of_means(more, list(said), list(said.values()))
    less = verdicts.slope_of_means(more, list(said), [-each for each in said.values()])
    apart = claim(
        "predictions do not converge as representations do", "the lesser of the first slope and − the second"
    )
    return [rises, agree, verdicts.both(apart, rises, less)]


# -- notebook 05 --------------------------------------------------------------------------------------------


def subgroup_claims(tables: Mapping[str, pd.DataFrame], measure: str) -> list[verdicts.Verdict]:
    """Judge whether networks of one ε are more alike where they agree; say where there are too few pairs.

    Parameters
    ----------
    tables
        What is added to the text of the claim → a table of `compare_groups` by agreement.
    measure
        By which networks are compared.
    """
    decided = []
    for level in sorted({level for table in tables.values() for level in table["epsilon_a"]}):
        for text, table in tables.items():
            own = table[(table["measure"] == measure) & (table["epsilon_a"] == level)]
            claim = verdicts.Claim(
                f"networks are more alike where they agree, ε = {epsilon_text(level)}{text}",
                "[K]",
                f"{measure}, inputs on which two networks agree − on which they disagree",
                SUBGROUP_PAPER,
            )
            try:
                values = significance.pseudo_values(agreement_gap(own))
            except ValueError as error:  # too few pairs have enough images in both groups
                print(f"{claim.text}: no verdict. {error}")
            else:
                decided.append(verdicts.mean(claim, values))
    return decided


def agreement_gap(table: pd.DataFrame) -> pd.Series:
    """Similarity where two networks agree − where they disagree, for each two that have enough images.

    Parameters
    ----------
    table
        Of `compare_groups` by agreement, of one measure and ε.

    Raises
    ------
    ValueError
        There are no two networks.
    """
    if table.empty:
        raise ValueError("no two networks are of this ε.")
    values = table.groupby(["model_a", "model_b"])["value"]
    table = table[values.transform(lambda own: own.notna().all())]
    agree, disagree = (table[table["group"] == name] for name in ("agree", "disagree"))
    return significance.unordered(agree) - significance.unordered(disagree)
