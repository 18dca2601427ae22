#!/usr/bin/env bash
# hyppo's HSIC gives both variables the bandwidth of the first: whether they depend hangs on the second one's unit.
#
# Versions: hyppo 0.5.2, NumPy 2.4.6, SciPy 1.17.1, scikit-learn 1.9.1.
# Expected: "the Gaussian kernel, which uses the median distance as the bandwidth", each variable its own, as the
#   median heuristic is. Statistic and p-value are then the same for y in metres and in millimetres, and for (x, y)
#   and (y, x).
# What happens: the median is taken of the distances of x, and the kernel of y gets the same. Where y varies much
#   more than x its kernel is the identity: the statistic is 0, and the p-value of the default test 0.32, whatever y
#   is; exchanged, the same two have another statistic.
# Who meets it: whoever tests variables of different units or widths, such as age and income, in the default of
#   `Hsic().test`. (`hyppo.d_variate.dHsic` takes its bandwidth so too.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    hyppo==0.5.2 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from hyppo.independence import Hsic


def squared_distances(x):
    return np.square(x[:, None] - x).sum(2)


def kernel(x, like):
    """Gaussian, with the median distance of `like` as its bandwidth."""
    median = np.median(np.sqrt(squared_distances(like))[np.triu_indices(len(like), 1)])
    return np.exp(-squared_distances(x) / (2 * median**2))


def correlation(k, l):
    """The unbiased HSIC (Song et al. 2012, equation 5) over the root of both matrices' own: hyppo's statistic."""

    def hsic(k, l):
        n = len(k)
        k, l = (matrix - np.diag(np.diag(matrix)) for matrix in (k, l))
        mean = k.sum() * l.sum() / ((n - 1) * (n - 2))
        return (k * l).sum() + mean - 2 / (n - 2) * k.sum(1) @ l.sum(1)

    own = hsic(k, k) * hsic(l, l)
    return hsic(k, l) / np.sqrt(own) if own else 0.0  # of the identity it is undefined, and hyppo has 0


generator = np.random.default_rng(0)
x = generator.normal(size=(100, 3))
y = x + 0.5 * generator.normal(size=(100, 3))
found = {}
for scale in (0.01, 1, 10, 100, 1000):
    found[scale], p_value = Hsic().test(x, scale * y)
    exchanged = Hsic().test(scale * y, x)[0]
    own = correlation(kernel(x, x), kernel(scale * y, scale * y))
    of_first = correlation(kernel(x, x), kernel(scale * y, x))
    print(
        f"y × {scale}: statistic {found[scale]:.3f} (p = {p_value:.2g}), with y first {exchanged:.3f}; "
        f"by the formula, each with its own median {own:.3f}, both with that of x {of_first:.3f}"
    )
    assert own > 0.7
    assert abs(found[scale] - of_first) < 1e-6, "the bandwidth is another now"
assert found[1] > 0.7 and abs(found[1000]) < 0.01 and p_value > 0.2, "the unit does not matter now"
PYTHON
