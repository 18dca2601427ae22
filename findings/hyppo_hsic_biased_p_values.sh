#!/usr/bin/env bash
# hyppo's HSIC with bias=True finds a dependence in everything: of independent data every p-value is below 0.001.
#
# Versions: hyppo 0.5.2, NumPy 2.4.6, SciPy 1.17.1, scikit-learn 1.9.1.
# Expected: of independent x and y, p-values below 0.05 come in 5 of 100 draws, with `bias=True` ("whether or not to
#   use the biased or unbiased test statistics") as without.
# What happens: with more than 20 samples, `Hsic(bias=True).test(x, y)` looks its statistic up in the chi-squared
#   approximation that is meant for the unbiased one, which is 0 on average; the biased one, of which it takes the
#   root besides, is far above. `Dcorr(bias=True)` permutes instead, and is right, as is `auto=False` here.
# Who meets it: whoever asks for the biased (V-statistic) HSIC of Gretton et al. and takes the default test.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    hyppo==0.5.2 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from hyppo.independence import Dcorr, Hsic


def biased_statistic(x, y):
    """The root of the correlation of the centred kernels, both with the median distance of x."""
    squared = [np.square(side[:, None] - side).sum(2) for side in (x, y)]
    median = np.median(np.sqrt(squared[0])[np.triu_indices(len(x), 1)])
    h = np.eye(len(x)) - 1 / len(x)
    k, l = (h @ np.exp(-side / (2 * median**2)) @ h for side in squared)
    return np.sqrt((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


generator = np.random.default_rng(0)
draws = [generator.normal(size=(2, 50, 3)) for _ in range(40)]
p_values = {
    "Hsic(bias=True).test": [Hsic(bias=True).test(x, y)[1] for x, y in draws],
    "… with auto=False": [Hsic(bias=True).test(x, y, auto=False, reps=199)[1] for x, y in draws],
    "Hsic().test": [Hsic().test(x, y)[1] for x, y in draws],
    "Dcorr(bias=True).test": [Dcorr(bias=True).test(x, y, reps=199, random_state=0)[1] for x, y in draws],
}
# By hand: the statistic's place among those of 199 permutations.
p_values["199 permutations, by the formula"] = [
    (1 + sum(biased_statistic(x, y[generator.permutation(50)]) >= biased_statistic(x, y) for _ in range(199))) / 200
    for x, y in draws
]
for name, values in p_values.items():
    below = np.mean(np.array(values) < 0.05)
    print(f"{name}: p from {min(values):.2g} to {max(values):.2g}, below 0.05 in {below:.0%} of 40 independent draws")
x, y = draws[0]
assert abs(Hsic(bias=True).test(x, y)[0] - biased_statistic(x, y)) < 1e-9
assert max(p_values.pop("Hsic(bias=True).test")) < 1e-3, "the default p-values are right now"
assert all(np.median(values) > 0.2 for values in p_values.values())
PYTHON
