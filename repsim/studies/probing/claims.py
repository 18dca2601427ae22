"""The claims of notebook 06."""

from __future__ import annotations

import pandas as pd

from repsim.statistics import significance, verdicts
from repsim.studies.probing.experiments import OWN

PAPER_USED = "7 ImageNet networks of ε = 3 (L2), 30 epochs of Adam; agreement on training images"


def probe_claims(agreement: pd.DataFrame, probe: str) -> list[verdicts.Verdict]:
    """Judge whether probes agree more than networks' own classifiers do; say so where it cannot be judged.

    Parameters
    ----------
    agreement
        As `Answers.agreement` gives it, of pairs of one ε.
    probe
        The label of the probes that are judged.
    """
    networks = agreement.groupby("epsilon_a")["model_a"].nunique()
    robust = [level for level, count in networks.items() if level > 0 and count > 2]
    if not robust:
        print("no verdict: fewer than three robust networks of one ε")
        return []
    decided = []
    for text, measure, sign in (
        ("classifiers are why robust networks disagree: probes agree more", "agreement", 1),
        ("… and not for being more accurate", "normalized_disagreement", -1),
    ):
        shown = "agreement" if sign > 0 else "normalised agreement"
        effect = f"{shown} of {probe} probes − of own classifiers, mean over ε > 0"
        groups = [_gain(agreement, probe, measure, sign, level) for level in robust]
        claim = verdicts.Claim(text, "[K]", effect, PAPER_USED)
        decided.append(verdicts.contrast(claim, groups, [1 / len(groups)] * len(groups)))
    return decided


def _gain(agreement: pd.DataFrame, probe: str, measure: str, sign: int, level: float) -> pd.Series:
    """Probes − own classifiers: one number per network."""
    rows = agreement[(agreement["measure"] == measure) & (agreement["epsilon_a"] == level)]
    pairs = {name: significance.unordered(own) for name, own in rows.groupby("classifier")}
    return significance.pseudo_values(sign * (pairs[probe] - pairs[OWN]))
