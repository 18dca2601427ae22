#!/usr/bin/env bash
# PyPI's repsim computes SVCCA without looking at variance, and finds a matrix less than equal to itself.
#
# Versions: repsim 0.1.5 (of PyPI), NumPy 2.4.6.
# Expected: "SVCCA first mean-centers and denoises each representation via SVD, retaining components explaining a high
#   fraction of variance at 99% threshold." Two matrices that share their ten loud directions, and differ in ten
#   that hold a millionth of the variance, have an SVCCA of 1; made as loud as the others, the ten count. SVCCA and
#   CCA of a matrix with itself are 1.
# What happens: singular vectors are taken of an orthonormal basis of the columns, in which all directions have the
#   same variance: nothing is dropped by how little there is of it (of more than 100 directions 1 % is, whichever
#   they are), and the value is that of CCA. The sum is divided by the number of columns before centring and
#   dropping, so that probabilities of ten classes, of which nine are free, have 0.9 with themselves, in `cca` too.
# Who meets it: whoever takes SVCCA against noise directions, as its authors do; whoever compares softmax outputs or
#   one-hot labels, or more than 100 units.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check repsim==0.1.5 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import repsim


def correlations(x, y, share):
    """Canonical correlations of the principal components that hold this share of the variance."""

    def leading(x):
        left, values, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
        held = np.cumsum(values**2) / np.sum(values**2)
        return left[:, : np.searchsorted(held, share) + 1]

    return np.linalg.svd(leading(x).T @ leading(y), compute_uv=False)


generator = np.random.default_rng(0)
shared, noise, other = generator.normal(size=(3, 500, 10))
print("ten shared directions, ten that are not shared:")
found = []
for loudness in (1e-3, 1):
    x, y = (np.hstack([shared, loudness * rest]) for rest in (noise, other))
    found.append(repsim.svcca([x, y], summary_type="yanai")[0, 1])
    svcca, cca = (np.mean(correlations(x, y, share) ** 2) for share in (0.99, 1 - 1e-12))
    print(f"  the latter × {loudness}: svcca {found[-1]:.3f}; by the formula, SVCCA {svcca:.3f}, CCA {cca:.3f}")
    assert abs(svcca - (1 if loudness < 1 else cca)) < 1e-3
    assert abs(found[-1] - cca) < 1e-6, "it is not CCA now"
assert abs(found[0] - found[1]) < 1e-6 and found[0] < 0.6, "variance counts now"

logits = generator.normal(size=(500, 10))
probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
wide = generator.normal(size=(1000, 200))
for name, x in (("probabilities of ten classes", probabilities), ("200 Gaussian units", wide)):
    svcca, cca = (measure([x, x])[0, 1] for measure in (repsim.svcca, repsim.cca))
    print(f"{name} with themselves: svcca {svcca:.3f}, cca {cca:.3f}")
    assert svcca < 0.995, "a matrix is equal to itself now"
    assert np.allclose(correlations(x, x, 0.99), 1)
PYTHON
