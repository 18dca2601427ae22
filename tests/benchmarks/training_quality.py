"""Whether bfloat16 and a cheap attack make as good networks as PGD-3 in float32: five networks each way.

`python tests/benchmarks/training_quality.py` trains ResNet-20 on all of `cifar10_jpeg` for ten epochs (found
by `REPSIM_DATA`), and tries each network on all test images, in float32. It takes two cores many hours, is no
part of `make bench`, and goes on where it was interrupted; networks are kept in the store (`REPSIM_HOME`).
What is known so far stands in docs/training_quality.csv, one row per network.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from repsim.attacks import Attack
from repsim.compute.processes import in_processes
from repsim.data import load_data
from repsim.training import Recipe, robust_accuracy
from repsim.training.model_store import obtain
from repsim.training.zoo import FINGERPRINTS, Images, recipes

DATA, ARCHITECTURE, EPSILON, SEEDS = "cifar10_jpeg", "resnet20_w1", 8 / 255, 5
WAYS = {
    "PGD-3, float32": {"training_attack": "pgd", "precision": "float32"},
    "PGD-3, bfloat16": {"training_attack": "pgd", "precision": "bfloat16"},
    "FGSM, bfloat16": {"training_attack": "fgsm", "precision": "bfloat16"},
}
TABLE = Path(__file__).parents[2] / "docs" / "training_quality.csv"
MARGIN = 0.015  # within which differences count as none


def chosen(way: str) -> list[Recipe]:
    """The recipes of one way."""
    images = Images(DATA, FINGERPRINTS[DATA])
    common = {"epochs": 10, "attack_steps": 3, **WAYS[way]}
    return recipes(images, [ARCHITECTURE], [EPSILON], range(SEEDS), **common)


def tried(way: str, recipe: Recipe) -> dict[str, object]:
    """One network: trained, and its accuracy on all test images."""
    data = load_data(DATA)
    model = obtain(recipe, data, device="cpu", progress=False)
    found = robust_accuracy(model.network, data.test, [Attack(0.0), Attack(EPSILON)])["accuracy"].round(4)
    return {"way": way, "seed": recipe.seed, "clean": found[0], "pgd_20": found[1]}


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Of each way from the first: mean difference, and its 95 % interval (Welch)."""
    first, *others = WAYS
    rows = []
    for way in others:
        for accuracy in ("clean", "pgd_20"):
            one, other = (table[table["way"] == each][accuracy] for each in (way, first))
            if min(len(one), len(other)) < 2:
                continue
            low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
            rows.append(
                (way, accuracy, one.mean() - other.mean(), low, high, np.abs([low, high]).max() < MARGIN)
            )
    return pd.DataFrame(rows, columns=["way", "accuracy", "difference", "low", "high", "within"])


def main(ways: list[str]) -> None:
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    for way in ways or WAYS:
        known = {row["seed"] for row in rows if row["way"] == way}
        wanted = [recipe for recipe in chosen(way) if recipe.seed not in known]
        if wanted:
            rows += in_processes(functools.partial(tried, way), wanted, os.cpu_count() or 1, way, "network")
            pd.DataFrame(rows).to_csv(TABLE, index=False)
    table = pd.DataFrame(rows)
    print(table.groupby("way", sort=False)[["clean", "pgd_20"]].agg(["mean", "std"]).round(4))
    print(differences(table).round(4).to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
