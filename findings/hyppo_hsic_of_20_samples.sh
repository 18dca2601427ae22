#!/usr/bin/env bash
# hyppo's unbiased HSIC is not unbiased up to 20 samples: of independent data its statistic is 0.6, and 0 from 21 on.
#
# Versions: hyppo 0.5.2, NumPy 2.4.6, SciPy 1.17.1, scikit-learn 1.9.1.
# Expected: the statistic of `Hsic().test(x, y)` is that of `Hsic().statistic(x, y)`, with or without permutations,
#   and as the unbiased one it is 0 on average for independent data, however many samples there are.
# What happens: where `test` permutes (up to 20 samples, or with `auto=False`) it hands the kernels on as they are.
#   U-centring, which leaves the diagonal out of the sums of rows, then trusts it to be 0, as it is in distance
#   matrices, while a kernel's diagonal is 1. Of independent data the statistic is far above 0, the more so the
#   fewer the samples and the more the features. (All permutations have the same shift, so that p-values are right;
#   but `random_state` is not handed on, so that they are others in each run.)
# Who meets it: whoever reads effect sizes off small samples, or compares them between groups of different size, or
#   turns the approximation off.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    hyppo==0.5.2 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from hyppo.independence import Hsic


def unbiased_statistic(x, y):
    """Song et al. (2012), equation 5, normalised; the kernels have the median distance of x, as in hyppo."""

    def hsic(k, l):
        n = len(k)
        k, l = (matrix - np.diag(np.diag(matrix)) for matrix in (k, l))
        mean = k.sum() * l.sum() / ((n - 1) * (n - 2))
        return (k * l).sum() + mean - 2 / (n - 2) * k.sum(1) @ l.sum(1)

    squared = [np.square(side[:, None] - side).sum(2) for side in (x, y)]
    median = np.median(np.sqrt(squared[0])[np.triu_indices(len(x), 1)])
    k, l = (np.exp(-side / (2 * median**2)) for side in squared)
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


generator = np.random.default_rng(0)
means = {}
for n, how in ((10, {}), (20, {}), (21, {}), (21, {"auto": False})):
    draws = [generator.normal(size=(2, n, 10)) for _ in range(200)]
    tested = [Hsic().test(x, y, reps=1, **how)[0] for x, y in draws]
    alone = [Hsic().statistic(x, y) for x, y in draws]
    formula = [unbiased_statistic(x, y) for x, y in draws]
    means[n, *how] = np.mean(tested)
    print(
        f"{n} samples of 10 independent features{', auto=False' if how else ''}, mean of 200 draws: "
        f"test {np.mean(tested):.3f}, statistic {np.mean(alone):.3f}, by the formula {np.mean(formula):.3f}"
    )
    assert np.allclose(alone, formula, atol=1e-9)
assert means[10,] > 0.5 and means[20,] > 0.2 and means[21, "auto"] > 0.2, "the statistic is unbiased now"
assert abs(means[21,]) < 0.05
x, y = generator.normal(size=(2, 15, 3))
p_values = [float(Hsic().test(x, y, reps=199, random_state=0)[1]) for _ in range(4)]
print("p-values of four runs with random_state=0:", p_values)
assert len(set(p_values)) > 1, "random_state is used now"
PYTHON
