#!/usr/bin/env bash
# PyPI's repsim says that a matrix and its copy have next to nothing in common, by its unbiased estimators of CKA.
#
# Versions: repsim 0.1.5 (of PyPI), NumPy 2.4.6.
# Expected: cka([x, x.copy()], estimator="song") is 1 everywhere: HSIC(x, x) is divided by the root of
#   HSIC(x, x) · HSIC(x, x), all by one estimator, as in Nguyen et al. (2021). Its own `hsic` has these values.
# What happens: only the numerator is by the estimator asked for; the denominator is always the biased one
#   ("gretton"). With more units than inputs that is many times larger: a copy has 0.1, and the more units, the less.
#   The diagonal of the table is not computed, but set to 1, which hides it. "lange" has the same fault.
# Who meets it: whoever takes an unbiased estimator for what it is for, few inputs and many units: all values shrink,
#   most where layers are wide, and look like dissimilarity.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check repsim==0.1.5 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import repsim


def unbiased(k, l):
    """HSIC of Song et al. (2012), equation 5."""
    n = len(k)
    k, l = (matrix - np.diag(np.diag(matrix)) for matrix in (k, l))
    mean = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return ((k * l).sum() + mean - 2 / (n - 2) * k.sum(1) @ l.sum(1)) / (n * (n - 3))


def biased(k, l):
    """HSIC of Gretton et al. (2005), of centred kernels."""
    return (k * l).sum() / (len(k) - 1) ** 2


def cka(x, y, above, below):
    k, l = ((side - side.mean(0)) @ (side - side.mean(0)).T for side in (x, y))
    return above(k, l) / np.sqrt(below(k, k) * below(l, l))


generator = np.random.default_rng(0)
for units in (10, 100, 500, 2000):
    x = generator.normal(size=(50, units))
    (diagonal, copy), _ = repsim.cka([x, x.copy()], kernel_type="linear", estimator="song")
    lange = repsim.cka([x, x.copy()], kernel_type="linear", estimator="lange")[0, 1]
    (own, between), _ = repsim.hsic([x, x.copy()], kernel_type="linear", estimator="song")
    right, mixed = cka(x, x, unbiased, unbiased), cka(x, x, unbiased, biased)
    print(
        f"50 inputs, {units} units: cka of x with x {diagonal:.3f}, with its copy {copy:.3f} ('lange': {lange:.3f}); "
        f"of its hsic {between / own:.3f}; by the formula {right:.3f}, unbiased over biased {mixed:.3f}"
    )
    assert diagonal == 1 and abs(right - 1) < 1e-9 and abs(between / own - 1) < 1e-9
    assert abs(copy - mixed) < 1e-9, "the denominator is another now"
assert copy < 0.05 and lange < 0.05, "a copy is equal now"
PYTHON
