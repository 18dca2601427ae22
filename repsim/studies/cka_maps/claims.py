"""The claims of notebook 01."""

from __future__ import annotations

import pandas as pd

from repsim.attacks import epsilon_text
from repsim.statistics import verdicts
from repsim.studies.cka_maps.block_structure import parting

PAPER_USED = "WRN-28-10 and others, CIFAR-10, ε = 8/255"


def block_claims(
    structure: pd.DataFrame, depth_curves: pd.DataFrame, overfitted: pd.DataFrame, level: float
) -> list[verdicts.Verdict]:
    """Judge block structure, specialisation, parting and overfitting, as far as there are networks for it.

    Parameters
    ----------
    structure
        As `block_structure` gives it.
    depth_curves
        As `natural_vs_adversarial` gives it.
    overfitted
        As `repsim.studies.probing.overfitting` gives it.
    level
        The ε of the robust networks.
    """
    blocks = verdicts.Claim(
        "block structure disappears in robust networks",
        "[C]",
        "block strength, standard − robust",
        PAPER_USED,
    )
    specialise = verdicts.Claim(
        "robust layers specialise less",
        "[C]",
        "mean CKA of different layers, robust − standard",
        PAPER_USED,
    )
    part = verdicts.Claim(
        "natural and adversarial inputs part ways with depth in standard networks",
        "[C]",
        "natural-vs-adversarial CKA, first third − last third of the layers, standard − robust",
        PAPER_USED,
    )
    deep = verdicts.Claim(
        "where robust networks overfit, it is in their deep layers",
        "[C]",
        "drop of probe accuracy, training − test images, last third − first third of the layers, "
        f"ε = {epsilon_text(level)}",
        PAPER_USED,
    )
    strength = structure.groupby("epsilon")["block_strength"].apply(list)
    likeness = structure.groupby("epsilon")["mean_cka"].apply(list)
    parted = parting(depth_curves).groupby("epsilon")["parting"].apply(list)
    deeper = overfitted.groupby("epsilon")["overfitting"].apply(list)
    decided = []
    if {0.0, level} <= set(strength.index):
        decided += [
            verdicts.difference(blocks, strength[0.0], strength[level]),
            verdicts.difference(specialise, likeness[level], likeness[0.0]),
            verdicts.difference(part, parted[0.0], parted[level]),
        ]
    if level in deeper.index:
        decided.append(verdicts.mean(deep, deeper[level]))
    return decided
