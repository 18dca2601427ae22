"""Tests over networks of notebooks 04 and 05: between data sets, and between groups of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from repsim.attacks import epsilon_text
from repsim.statistics import significance
from repsim.studies.comparison.claims import agreement_gap
from repsim.studies.comparison.tables import several

GROUP_COLUMNS = ["measure", "epsilon", "norm", "difference", "networks", "p_networks", "least_p"]
GROUP_COLUMNS += ["p_pairs", "p_ordered"]


def dataset_differences(table: pd.DataFrame, first: str, judged: str) -> pd.DataFrame:
    """Compare robust networks of one data set with those of each other one.

    What can never be significant, with so few networks, is printed.

    Parameters
    ----------
    table
        Of `compare_models`, on several data sets.
    first
        The data set that the others are compared with.
    judged
        The measure for which pairs are exchanged, too.

    Returns
    -------
    DataFrame
        One row per `inputs`, `measure` and `other` data set: `difference` of the means of pairs of one ε > 0,
        over ε; `networks`, how many; `p_networks` (networks are exchanged) with the least that it can be,
        `least_p`; `p_pairs` (pairs are).
    """
    robust = several(table[(table["epsilon_a"] > 0) & table["value"].notna()])
    rows, lacking = [], set()
    for (inputs, measure), part in robust.groupby(["inputs", "measure"], sort=False):
        own = part[part["dataset"] == first]
        for other, theirs in part[part["dataset"] != first].groupby("dataset", sort=False):
            if own.empty:
                continue
            networks = significance.exchange_test(*(_units(t, significance.of_models) for t in (own, theirs)))
            row = {"inputs": inputs, "measure": measure, "other": other, "difference": networks.value}
            row |= {"networks": networks.units, "p_networks": networks.p_value}
            row["least_p"] = networks.least_p_value
            lacking.add(networks.lacking)
            if measure == judged:
                pairs = (_units(t, significance.unordered) for t in (own, theirs))
                row["p_pairs"] = significance.exchange_test(*pairs).p_value
            rows.append(row)
    _say(lacking)
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["inputs", "measure", "other"])


def _units(part: pd.DataFrame, of: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    """Numbers of networks, or of pairs, without what is between ε."""
    return significance.without_levels([of(rows) for _, rows in part.groupby("epsilon_a")])


def group_differences(table: pd.DataFrame, norm: str) -> pd.DataFrame:
    """Test whether similarity differs between inputs on which networks agree and disagree.

    What cannot be tested, or never be significant, is printed.

    Parameters
    ----------
    table
        Of `compare_groups` by agreement.
    norm
        Of ε.

    Returns
    -------
    DataFrame
        One row per `measure` and `epsilon`: `difference`, mean over pairs; `networks`, how many; `p_networks`
        (exchanged for whole networks) with the least that it can be, `least_p`; `p_pairs` (pairs are
        exchanged); `p_ordered` (each pair in both orders).
    """
    rows, lacking = [], set()
    for (measure, level), part in table.groupby(["measure", "epsilon_a"], sort=False):
        try:
            pairs = agreement_gap(part)
            networks = significance.paired_test(significance.pseudo_values(pairs))
        except ValueError as error:  # too few pairs have enough images in both groups
            print(f"{measure}, ε = {epsilon_text(level)}: no test. {error}")
            continue
        row = {"measure": measure, "epsilon": level, "norm": norm, "difference": networks.value}
        row |= {"networks": networks.units, "p_networks": networks.p_value}
        row["least_p"] = networks.least_p_value
        row["p_pairs"] = significance.paired_test(pairs).p_value
        row["p_ordered"] = significance.paired_test(pd.concat([pairs, pairs])).p_value
        lacking.add(networks.lacking)
        rows.append(row)
    _say(lacking)
    return pd.DataFrame(rows, columns=GROUP_COLUMNS)


def _say(texts: Iterable[str]) -> None:
    for text in sorted(set(texts) - {""}):
        print(text)
