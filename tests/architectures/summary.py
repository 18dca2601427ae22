"""The sweep's rows in one table, and what they miss."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from networks import LIBRARIES

VERDICTS = ("right", "refused", "wrong", "crash", "timeout")
MOST_REFUSED, LEAST_TRACED = 0.02, 0.85


def missed(rows: list[dict], *, shares: bool) -> list[str]:
    """The targets that are missed; those of shares only where all networks were run."""
    faults = [
        f"{row['library']} {row['name']}: {row['verdict']} ({row['wrong'] or row['crash']})"
        for row in rows
        if row["verdict"] in ("wrong", "crash", "timeout")
    ]
    if shares and (share := _share(rows, "verdict", "refused")) > MOST_REFUSED:
        faults.append(f"{share:.1%} of the networks are refused; the target is at most {MOST_REFUSED:.0%}.")
    if shares and (share := _share(rows, "how", "traced")) < LEAST_TRACED:
        faults.append(f"{share:.1%} of the networks are traced; the target is at least {LEAST_TRACED:.0%}.")
    return faults


def summarize(rows: list[dict]) -> str:
    """Markdown: counts by library and verdict, and the names of all that is not simply traced and right."""
    present = [library for library in LIBRARIES if any(row["library"] == library for row in rows)]
    lines = [
        "| library | networks | traced | " + " | ".join(VERDICTS) + " |",
        "|---" * (3 + len(VERDICTS)) + "|",
    ]
    for library in [*present, "all"]:
        own = [row for row in rows if library in (row["library"], "all")]
        counts = Counter(row["verdict"] for row in own)
        cells = [library, len(own), f"{_share(own, 'how', 'traced'):.1%}", *(counts[v] for v in VERDICTS)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    totals = [
        f"{_total(rows, 'layers'):.0f} layers",
        f"{_total(rows, 'values_compared'):.0f} layers' values compared",
        f"{_total(rows, 'stitches'):.0f} stitches",
        f"{_total(rows, 'cka_compared') + _total(rows, 'pooled_compared'):.0f} CKAs",
        f"{_total(rows, 'seconds') / 60:.0f} minutes of one thread",
    ]
    lines += ["", ", ".join(totals) + "."]
    lines += _listed(
        "Wrong, crashed, or not done in time", _by(rows, lambda row: row["wrong"] or row["crash"])
    )
    refused = [row for row in rows if row["verdict"] == "refused"]
    lines += _listed("Refused", _by(refused, lambda row: row["refusals"]))
    hooked = [row for row in rows if row["how"] == "hooked"]
    lines += _listed("Hooked, not traced", _by(hooked, lambda row: row["reason"] or "no reason is given"))
    partly = [row for row in rows if row["verdict"] != "refused"]
    lines += _listed("Refused in part", _by(partly, lambda row: row["refusals"]))
    return "\n".join(lines) + "\n"


def _by(rows: Iterable[dict], text_of) -> dict[str, list[str]]:
    """Text → the networks that it is said of; none of those that nothing is said of."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if text := text_of(row):
            found[text].append(f"{row['library']} {row['name']}")
    return dict(sorted(found.items(), key=lambda entry: -len(entry[1])))


def _listed(title: str, found: dict[str, list[str]]) -> list[str]:
    if not found:
        return []
    entries = [f"- {', '.join(names)}: {' '.join(text.split())[:400]}" for text, names in found.items()]
    return ["", f"## {title}", "", *entries]


def _share(rows: list[dict], column: str, value: str) -> float:
    return sum(row[column] == value for row in rows) / max(len(rows), 1)


def _total(rows: list[dict], column: str) -> float:
    return sum(float(row[column]) for row in rows)
