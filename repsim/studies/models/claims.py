"""The claims of notebook 00."""

from __future__ import annotations

import pandas as pd

from repsim.attacks import epsilon_text
from repsim.statistics import verdicts


def model_claims(accuracies: pd.DataFrame, level: float, attack: str) -> list[verdicts.Verdict]:
    """Judge what robust training costs and what it buys, as far as there are networks for it.

    Parameters
    ----------
    accuracies
        As `accuracy_table` gives it.
    level
        The ε of robust networks and of the attack.
    attack
        Under which attack robust accuracy is measured.
    """
    text = epsilon_text(level)
    cost = verdicts.Claim(
        "robust training costs clean accuracy",
        "Tsipras et al. 2019",
        f"clean accuracy, trained at ε = 0 minus at ε = {text}",
        "CIFAR-10 and ImageNet",
    )
    gain = verdicts.Claim(
        "robust accuracy rises with training ε",
        "Madry et al. 2018",
        f"slope of accuracy under attack at ε = {text} over training ε",
        "CIFAR-10 and MNIST",
    )
    decisive = accuracies[accuracies["attack"] == attack]
    clean = decisive[decisive["attack_epsilon"] == 0].groupby("epsilon")["accuracy"].apply(list)
    attacked = decisive[decisive["attack_epsilon"] == level]
    decided = []
    if {0.0, level} <= set(clean.index):
        decided.append(verdicts.difference(cost, clean[0.0], clean[level]))
    if attacked["epsilon"].nunique() > 1:
        decided.append(verdicts.slope(gain, attacked["epsilon"], attacked["accuracy"]))
    return decided
