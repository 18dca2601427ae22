"""Many measures, or many representations, at once: what they have in common is computed once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pandas as pd
import torch

from repsim.measures.measure import Measure, check_rows, represent_pair
from repsim.measures.predictions import PredictionMeasure
from repsim.measures.registry import MEASURES, find_measure
from repsim.measures.representation import Memory, Representation, represent
from repsim.support.arrays import Values
from repsim.support.messages import unknown
from repsim.support.progress import progress_bar

# One measure or several, by name (with options: "jaccard(k=20)") or themselves; or "all".
Measures = str | Measure | PredictionMeasure | Sequence[str | Measure | PredictionMeasure]


def compare(
    x: Values,
    y: Values,
    measures: Measures = "all",
    *,
    pool: bool = False,
    dtype: torch.dtype = torch.float64,
) -> pd.DataFrame:
    """Several measures of one pair of representations, for less than they cost one by one.

    Parameters
    ----------
    x, y
        Matrices of the same inputs; see `Measure.__call__`.
    measures
        `"all"`, a name such as `cka` or `jaccard(k=20)`, or a list of them. Of all, `rtd` takes most of the
        time: a minute at 500 inputs and more.

    Returns
    -------
    DataFrame
        One row per measure: `measure`, `value`, `orientation`, and a `note` that holds what a single call
        would have warned of. With `"all"`, a measure that is not defined for the two (equal widths, enough
        inputs) has no value, and its note says why.

    Raises
    ------
    ValueError
        As a single call; of an unknown measure, the nearest names.
    """
    first, second = represent_pair(x, y, pool=pool, dtype=dtype)
    rows = [row_of(measure, first, second, measures == "all") for measure in choose(measures)]
    return pd.DataFrame(rows)


def compare_many(
    representations: Mapping[str, Values],
    measures: Measures = "all",
    *,
    pairs: Iterable[tuple[str, str]] | None = None,
    pool: bool = False,
    dtype: torch.dtype = torch.float64,
    progress: bool = True,
) -> pd.DataFrame:
    """Measures of all pairs of several representations; what concerns one of them is computed once.

    That is, as long as 4 GiB hold it: with tens of thousands of inputs, distance matrices are made anew.

    Parameters
    ----------
    representations
        By the names that the table calls them; at least two, of the same inputs.
    measures
        As for `compare`.
    pairs
        Compare only these, by their names, in this order of the two.
    progress
        Show a progress bar over the pairs.

    Returns
    -------
    DataFrame
        One row per pair and measure: `model_a`, `model_b`, `measure`, `value`, `orientation`, `note`. Of a
        measure that is not symmetric, both orders, unless `pairs` says which.
    """
    if not isinstance(representations, Mapping):
        raise TypeError(
            f"representations must be given by name, in a dict, not in a {type(representations).__name__}."
        )
    if len(representations) < 2:
        raise ValueError(f"compare_many needs at least 2 representations, got {len(representations)}.")
    chosen = choose(measures)
    pairs = None if pairs is None else list(pairs)
    if pairs is not None:
        _check_pairs(pairs, representations)
    prepared = prepare(representations, pool=pool, dtype=dtype)
    # Family by family: what its measures share is then still in memory.
    work = list(_work(list(prepared), chosen, pairs))
    rows = []
    for name_a, name_b, measure in progress_bar(work, "comparing", "value", progress):
        row = row_of(
            measure, prepared[name_a], prepared[name_b], measures == "all", f" of {name_a!r} and {name_b!r}"
        )
        rows.append({"model_a": name_a, "model_b": name_b, **row})
    table = pd.DataFrame(rows)
    models = {name: i for i, name in enumerate(prepared)}
    places = {"model_a": models, "model_b": models}
    places["measure"] = {measure.label: i for i, measure in enumerate(chosen)}
    return table.sort_values(
        list(places), key=lambda column: column.map(places[column.name]), ignore_index=True
    )


def prepare(
    representations: Mapping[str, Values], *, pool: bool = False, dtype: torch.dtype = torch.float64
) -> dict[str, Representation]:
    """Representations of the same inputs, checked, which share what is derived from them."""
    memory = Memory()
    prepared: dict[str, Representation] = {}
    for name, values in representations.items():
        device = next(iter(prepared.values())).values.device if prepared else None
        shown = f"representations[{name!r}]"
        prepared[name] = represent(values, shown, pool=pool, dtype=dtype, device=device, memory=memory)
        first = next(iter(prepared))
        check_rows(prepared[first], prepared[name], f"representations[{first!r}]", shown)
    return prepared


def _check_pairs(pairs: list[tuple[str, str]], known: Iterable[str]) -> None:
    if not pairs:
        raise ValueError("no pair was asked for; name some, or leave `pairs` out for all.")
    for name in (name for pair in pairs for name in pair):
        if name not in known:
            raise ValueError(unknown("representation", name, list(known)))


def choose(
    measures: Measures,
    find: Callable[[object], Measure | PredictionMeasure] = find_measure,
    known: Mapping[str, Measure | PredictionMeasure] = MEASURES,
) -> list[Measure | PredictionMeasure]:
    """The measures that are asked for.

    Parameters
    ----------
    find
        How one is found by what it was asked for.
    known
        What `"all"` are.

    Raises
    ------
    ValueError
        One is unknown, is asked for twice, or none is.
    """
    if not isinstance(measures, Sequence | Measure | PredictionMeasure):
        raise ValueError(f"measures must be 'all', a name or a list of names, not {measures!r}.")
    if isinstance(measures, str | Measure | PredictionMeasure):
        return list(known.values()) if measures == "all" else [find(measures)]
    chosen = [find(measure) for measure in measures]
    if not chosen:
        raise ValueError("no measure was asked for; name some, or say 'all'.")
    labels = [measure.label for measure in chosen]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"measures are asked for twice: {', '.join(twice)}.")
    return chosen


def _work(
    names: list[str], measures: Iterable[Measure], pairs: list[tuple[str, str]] | None
) -> Iterator[tuple[str, str, Measure]]:
    families: dict[str, list[Measure]] = {}
    for measure in measures:
        families.setdefault(measure.family, []).append(measure)
    for family in families.values():
        if pairs is not None:
            yield from ((*pair, measure) for pair in pairs for measure in family)
            continue
        for i, name_a in enumerate(names):
            # to and fro: if memory does not hold them all, what was used last is used next
            for name_b in names[i + 1 :][:: -1 if i % 2 else 1]:
                for measure in family:
                    yield name_a, name_b, measure
                    if not measure.symmetric:
                        yield name_b, name_a, measure


def row_of(
    measure: Measure, x: Representation, y: Representation, undefined_is_a_note: bool, of_which: str = ""
) -> dict:
    """One row of the table; a measure that is not defined has a note in place of its value, or raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = measure.evaluate(x, y)
            notes = [*measure.caveats(x, y), *(str(warning.message) for warning in caught)]
        except ValueError as error:
            if not undefined_is_a_note:
                raise ValueError(f"{measure.label}{of_which}: {error}") from error
            value, notes = float("nan"), [str(error)]
    return {
        "measure": measure.label,
        "value": value,
        "orientation": measure.orientation,
        "note": " ".join(dict.fromkeys(notes)),
    }
