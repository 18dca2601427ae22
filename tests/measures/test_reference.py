"""Every measure against what its peers' own code answered: ReSi, netrep, sim_metric, rsatoolbox and dcor.

`tests/reference/` holds six pairs of matrices from each of two seeds, and the answers.
"""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from repsim.measures import find_measure
from repsim.measures.measure import represent_pair
from repsim.measures.statistics import _uniformity

FOLDER = Path(__file__).parents[1] / "reference"

# What a peer calls it: what it is here, or that and what the peer's number is of ours.
SAME = {
    "dcor distance_correlation_sqr": ("distance_correlation", lambda value: value**2),
    "dcor u_distance_correlation_sqr": "distance_correlation_unbiased",
    "netrep LinearMetric(alpha=0.0, score_method=angular)": "shape_metric(alpha=0.0)",
    "netrep LinearMetric(alpha=0.5, score_method=angular)": "shape_metric(alpha=0.5)",
    "netrep LinearMetric(alpha=1.0, score_method=angular)": "procrustes_angular",
    "netrep LinearMetric(alpha=1.0, score_method=euclidean)": "procrustes_size_shape",
    "netrep PermutationMetric(score_method=angular)": "permutation_angular",
    "resi AlignedCosineSimilarity": "aligned_cosine",
    "resi CKA": "cka",
    "resi ConcentricityDifference": "concentricity_difference",
    "resi DistanceCorrelation": "distance_correlation",
    "resi HardCorrelationMatch": "correlation_match_hard",
    "resi JaccardSimilarity": "jaccard",
    "resi LinearRegression": "linear_regression",
    "resi MagnitudeDifference": "magnitude_difference",
    "resi OrthogonalAngularShapeMetricCentered": "procrustes_angular",
    "resi OrthogonalProcrustesCenteredAndNormalized": "procrustes",
    "resi PermutationProcrustes": "permutation_procrustes",
    "resi ProcrustesSizeAndShapeDistance": "procrustes_size_shape",
    "resi RSA": "rsa",
    "resi RankSimilarity": "rank",
    "resi SecondOrderCosineSimilarity": "second_order_cosine",
    "resi SoftCorrelationMatch": "correlation_match_soft",
    "rsatoolbox rdm=correlation compare=corr": "rsa(compare='pearson')",
    "rsatoolbox rdm=correlation compare=cosine": "rsa(compare='cosine')",
    "rsatoolbox rdm=correlation compare=cosine_cov": "rsa(compare='whitened_cosine')",
    "rsatoolbox rdm=correlation compare=spearman": "rsa(compare='spearman')",
    "rsatoolbox rdm=euclidean compare=corr": "rsa(rdm='euclidean', compare='pearson')",
    "rsatoolbox rdm=euclidean compare=cosine": "rsa(rdm='euclidean', compare='cosine')",
    "rsatoolbox rdm=euclidean compare=cosine_cov": "cka",
    "rsatoolbox rdm=euclidean compare=spearman": "rsa(rdm='euclidean', compare='spearman')",
    "sim_metric lin_cka_dist": ("cka", lambda value: 1 - value),
    "sim_metric mean_cca_corr": "cca_mean",
    "sim_metric mean_sq_cca_corr": "cca_mean_squared",
    "sim_metric procrustes(centred, unit norm)": ("procrustes", lambda value: value**2),
    "sim_metric pwcca_dist": ("pwcca", lambda value: 1 - value),
}


def value_of(name, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one pair has more units than inputs
        return find_measure(name)(x, y)


# -- where they differ, their answer from ours --------------------------------------------------------------


def whitened_size_and_shape(alpha):
    """Partly whitened, each representation gets back the norm that it had: netrep preserves variance."""

    def theirs(x, y):
        a, b = (np.linalg.norm(side - side.mean(0)) for side in (x, y))
        angle = value_of(f"shape_metric(alpha={alpha})", x, y)
        return math.sqrt(a**2 + b**2 - 2 * a * b * math.cos(angle))

    return theirs


def overlap_by_width(x, y):
    """Divided by the larger width, where ours is by the larger rank."""
    ours = value_of("eigenspace_overlap", x, y)
    ranks, widths = [np.linalg.matrix_rank(side) for side in (x, y)], [side.shape[1] for side in (x, y)]
    return ours * max(ranks) / max(widths)


def uniformity_with_selves(t):
    """Every input is paired with itself too, at distance 0: n of the n² pairs."""

    def theirs(x, y):
        n = len(x)
        own = [math.exp(_uniformity(side, t)) for side in represent_pair(x, y)]
        a, b = (math.log1p((n - 1) * mean) for mean in own)
        return abs(a - b)

    return theirs


def cka_prime(x, y):
    """Over the squared traces. Its two branches, for narrow and for wide, are not the same thing at all."""
    k, l = (side @ side.T for side in (x - x.mean(0), y - y.mean(0)))  # noqa: E741
    traces = np.trace(k) ** 2 + np.trace(l) ** 2
    return ((k - l) ** 2).sum() / traces if x.shape[1] > len(x) else 1 - 2 * (k * l).sum() / traces


DIFFERENT = {
    "netrep LinearMetric(alpha=0.0, score_method=euclidean)": whitened_size_and_shape(0.0),
    "netrep LinearMetric(alpha=0.5, score_method=euclidean)": whitened_size_and_shape(0.5),
    "resi EigenspaceOverlapScore": overlap_by_width,
    "resi UniformityDifference": uniformity_with_selves(2.0),
    "sim_metric lin_cka_prime_dist": cka_prime,  # which we do not have
}


def load():
    for seed in (0, 1):
        inputs = np.load(FOLDER / f"reference_inputs_{seed}.npz")
        values = json.loads((FOLDER / f"reference_values_{seed}.json").read_text())
        for pair, answers in values.items():
            for peer, answer in answers.items():
                yield peer, f"{seed} {pair}: {peer}", (inputs[f"{pair}.X"], inputs[f"{pair}.Y"], peer, answer)


ANSWERS = list(load())


def answers_in(names):
    found = [
        pytest.param(peer, id=peer) for peer in dict.fromkeys(peer for peer, _, _ in ANSWERS) if peer in names
    ]
    return pytest.mark.parametrize("peer", found)


def cases_of(peer):
    """Label, representations and answer of every pair that a peer was asked about."""
    return [(label, x, y, answer) for asked, label, (x, y, _, answer) in ANSWERS if asked == peer]


def near(answer, peer):
    noise = 5e-8 if "angular" in peer else 1e-13  # of an arccos near 1
    return pytest.approx(answer, rel=1e-7, abs=noise)


def test_every_answer_is_compared():
    assert {peer for peer, _, _ in ANSWERS} == SAME.keys() | DIFFERENT.keys()
    assert not SAME.keys() & DIFFERENT.keys()


@answers_in(SAME)
def test_agrees_with_the_peer(peer):
    name, convert = SAME[peer] if isinstance(SAME[peer], tuple) else (SAME[peer], float)
    for label, x, y, answer in cases_of(peer):
        assert convert(value_of(name, x, y)) == near(answer, peer), label


@answers_in(DIFFERENT)
def test_differs_from_the_peer_in_a_way_that_is_known(peer):
    for label, x, y, answer in cases_of(peer):
        assert DIFFERENT[peer](x, y) == near(answer, peer), label


def test_uniformity_where_the_peers_is_not_next_to_nothing():
    """Distances small enough for the pairs to count beside each input's distance to itself."""
    x, y = (scale * np.random.default_rng(0).normal(size=(30, 5)) for scale in (0.1, 0.3))

    def resi(side):
        squared = ((side[:, None] - side) ** 2).sum(-1)
        return math.log(np.exp(-2.0 * squared).mean())

    theirs = abs(resi(x) - resi(y))
    assert theirs > 0.3
    assert uniformity_with_selves(2.0)(x, y) == pytest.approx(theirs, rel=1e-12)
    assert value_of("uniformity_difference", x, y) == pytest.approx(theirs, rel=0.5)
    assert value_of("uniformity_difference", x, y) > 1.02 * theirs


def test_eigenspace_overlap_at_full_column_rank_is_the_peers():
    same = [(x, y, answer) for peer, _, (x, y, _, answer) in ANSWERS if peer == "resi EigenspaceOverlapScore"]
    narrow = [case for case in same if max(case[0].shape[1], case[1].shape[1]) < len(case[0])]
    assert len(narrow) == len(same) - 2
    for x, y, answer in narrow:
        assert value_of("eigenspace_overlap", x, y) == pytest.approx(answer, rel=1e-9)
