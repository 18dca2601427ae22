"""The claims of notebook 02."""

from __future__ import annotations

import pandas as pd

from repsim.attacks import epsilon_text
from repsim.statistics import verdicts
from repsim.studies.stitching.experiments import fitting_method
from repsim.studies.stitching.options import StitchOptions

PAPER_USED = "ResNet-18 and others, CIFAR-10, ε = 8/255; donors' BatchNorm updated"


def under_attack(mixed: pd.DataFrame, attacked: StitchOptions) -> pd.DataFrame:
    """Rows of stitches whose maps were found in one way, with the `place` of each: first, between, last."""
    rows = mixed[mixed["fitting_method"] == fitting_method(attacked)]
    return rows.assign(place=rows["depth"].map({0.0: "first", 1.0: "last"}).fillna("between"))


def stitching_claims(
    mixed: pd.DataFrame, plain: StitchOptions, attacked: StitchOptions, matched: StitchOptions, level: float
) -> list[verdicts.Verdict]:
    """Judge compatibility, where robust accuracy suffers, and direct matching, as far as it was measured.

    Parameters
    ----------
    mixed
        A table of stitches of the same layer, of pairs of a standard and a robust donor, with their `depth`.
    plain, attacked, matched
        How maps were found: by task loss on clean images, on attacked images, by least squares.
    level
        The ε of the attack.
    """
    compatible = verdicts.Claim(
        "standard and robust networks are compatible in accuracy",
        "[B]",
        "clean accuracy ÷ the end's, mixed pairs, task loss (α = 0), mean over layers, − 0.9",
        PAPER_USED,
    )
    ends = verdicts.Claim(
        "robust accuracy suffers most where the stitch is in the middle",
        "[B]",
        f"accuracy at ε = {epsilon_text(level)}, mixed pairs, task loss (α = 1), "
        "first and last layers − those between",
        PAPER_USED,
    )
    weaker = verdicts.Claim(
        "direct matching is weaker than task loss",
        "[B]",
        "clean accuracy ÷ the end's, mixed pairs, task loss (α = 0) − least squares, mean over layers",
        PAPER_USED,
    )
    relative = mixed.pivot_table("relative_accuracy_end", "front_seed", "fitting_method")
    places = under_attack(mixed, attacked).pivot_table("robust_accuracy", "front_seed", "place")
    task, direct = fitting_method(plain), fitting_method(matched)
    decided = []
    if task in relative:
        decided.append(verdicts.mean(compatible, relative[task] - 0.9, "pairs"))
    if {"first", "between", "last"} <= set(places):
        gain = (places["first"] + places["last"]) / 2 - places["between"]
        decided.append(verdicts.mean(ends, gain, "pairs"))
    if {task, direct} <= set(relative):
        decided.append(verdicts.mean(weaker, relative[task] - relative[direct], "pairs"))
    return decided
