"""Faults of the published code that this project does not have, to show what they change.

Nothing else uses these numbers. See docs/differences.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from repsim.data import Dataset, Split
from repsim.measures import MEASURES
from repsim.measures.hsic import centered_gram, recenter_
from repsim.studies.comparison.comparing import pairs_within
from repsim.studies.comparison.groups import GROUPINGS, Sampling
from repsim.studies.comparison.input_sets import make_input_sets
from repsim.studies.comparison.observing import Observers
from repsim.studies.comparison.values import Activations
from repsim.training.model_store import TrainedModel

COLUMNS = ["model_a", "model_b", "epsilon", "measure", "group", "n", "value", "as_published"]
Two = tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]


def carried_over_cka(groups: Sequence[Two]) -> list[float]:
    """Debiased CKA of one group after the other, where sums are never set to 0 again.

    So the universality code makes its Figure 5: what it calls the similarity where models disagree is mostly
    that where they agree, whose sums are of many more inputs.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    found = []
    for x, y in groups:
        k, l = (recenter_(centered_gram(each.double()), "unbiased") for each in (x, y))  # noqa: E741
        sums += torch.stack([(k * l).sum(), k.square().sum(), l.square().sum()])
        found.append(float(sums[0] / (sums[1] * sums[2]).sqrt()))
    return found


def self_counting_jaccard(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n e"], *, k: int = 10, metric: str = "euclidean"
) -> float:
    """Mean overlap of nearest neighbours, where an input may be its own, as in the universality code.

    By Euclidean distance it always is; by cosine, its similarity with itself is set to 0, so that it comes in
    where fewer than k others are at an angle below 90°.
    """
    kept = []
    for each in (x.double(), y.double()):
        if metric == "euclidean":
            order = torch.cdist(each, each).argsort(dim=1)
        else:
            unit = torch.nn.functional.normalize(each, dim=1)
            order = (unit @ unit.T).fill_diagonal_(0).argsort(dim=1, descending=True)
        near = torch.zeros(len(each), len(each), dtype=torch.bool)
        kept.append(near.scatter_(1, order[:, :k], True))
    shared, either = (kept[0] & kept[1]).sum(1), (kept[0] | kept[1]).sum(1)
    return float((shared / either).mean())


def agreement_with_faults(
    models: Iterable[TrainedModel],
    data: Dataset | Split,
    *,
    size: int | None = None,
    k: int = 10,
    seed: int = 0,
    within: Sequence[str] = (),
) -> pd.DataFrame:
    """Similarity where pairs of models agree and where they disagree: as it is, and as it was published.

    Parameters
    ----------
    size
        Images of each group; None: all, as published.

    Returns
    -------
    DataFrame
        One row per pair that has enough inputs in both groups, measure and group: `model_a`, `model_b`,
        `epsilon`, `measure`, `group`, `n`, `value`, `as_published`.
    """
    models = {model.name: model for model in models}
    sampling = Sampling("agreement", size, False, 2, seed)
    (input_set,) = make_input_sets(models, data, "natural", "penultimate")
    captured = Activations.of(input_set, Observers(models), models)
    names = GROUPINGS["agreement"].names([], 2)
    jaccard = MEASURES["jaccard"].using(k=k, metric="euclidean")
    rows = []
    order = {name: place for place, name in enumerate(models)}
    for pair in pairs_within(models, within):
        if order[pair[0]] > order[pair[1]]:
            continue
        drawn = sampling.draw(sampling.members(names, captured, pair), captured.labels)
        if min(map(len, drawn.values())) < jaccard.least_inputs(0, 0):
            continue
        values = [captured.observations[name].values["penultimate"] for name in pair]
        groups = [tuple(each[drawn[name]] for each in values) for name in names]
        found = {
            "cka_debiased": ([MEASURES["cka_debiased"](*two) for two in groups], carried_over_cka(groups)),
            jaccard.label: (
                [jaccard(*two) for two in groups],
                [self_counting_jaccard(*two, k=k) for two in groups],
            ),
        }
        for measure, (right, published) in found.items():
            rows += [
                {
                    "model_a": pair[0],
                    "model_b": pair[1],
                    "epsilon": models[pair[0]].recipe.epsilon,
                    "measure": measure,
                    "group": name,
                    "n": len(drawn[name]),
                    "value": value,
                    "as_published": other,
                }
                for name, value, other in zip(names, right, published, strict=True)
            ]
    return pd.DataFrame(rows, columns=COLUMNS)
