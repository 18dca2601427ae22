"""Write the tables of the pages and of the README from where their numbers are kept.

`python docs/generate.py` writes them anew between `<!-- generated: NAME -->` and `<!-- end -->`. Nobody edits
what stands there: `tests/test_docs.py` holds the pages and this file together.
"""

from __future__ import annotations

import csv
import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from repsim.attacks import ATTACKS, make_attack
from repsim.cli.parameters import Notebook
from repsim.data import LOADERS
from repsim.measures import MEASURES, PREDICTION_MEASURES, documentation
from repsim.models import ARCHITECTURES, build_model
from repsim.training import zoo
from repsim.training.model_store import find

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMON = 6  # a parameter that so many notebooks declare alike is listed once

# For each notebook its verdict table, its question, its papers, and what it has found in one sentence, which
# was written for these verdicts, in the table's order (h: holds, i: inconclusive, n: does not hold). Numbers
# come from the table's rows: {0.value} is the first one's.
FINDINGS = {
    "00_models": (
        "digits",
        "What does robust training cost, and what does it buy?",
        "Madry et al. 2018, Zhang et al. 2019",
        "Accuracy under attack rises with training ε; what that costs in clean accuracy on digits is too "
        "little to tell ({0.value:.3f}, {0.low:.3f} to {0.high:.3f})",
        "ih",
    ),
    "01_cka_block_structure": (
        "digits",
        "How alike are the layers of standard and of robust networks?",
        "[C] Cianfarani et al. 2022",
        "Block structure fades in robust networks, whose layers are more alike; natural and adversarial "
        "images part ways with depth in standard networks (by {2.value:.2f} of CKA more, {2.low:.2f} to "
        "{2.high:.2f})",
        "hhhh",
    ),
    "02_stitching": (
        "digits",
        "What can one network do with another's representation?",
        "[B] Balogh & Jelasity 2023",
        "Stitched, standard and robust networks keep nearly all clean accuracy; maps that only match "
        "activations lose {2.value:.0%} of it ({2.low:.0%} to {2.high:.0%})",
        "hhh",
    ),
    "03_inversion_similarity": (
        "digits",
        "Do networks use the same, or only see the same data?",
        "[J] Jones et al. 2022, Nanda et al. 2022",
        "Standard networks look {0.value:.2f} of CKA more alike on natural images than on inverted ones "
        "({0.low:.2f} to {0.high:.2f}); the more robust, the more alike they are",
        "hhhhhh",
    ),
    "04_universality": (
        "digits",
        "Do robust networks become alike on every data set, and in what they answer?",
        "[K] Klabunde et al. 2025",
        "Predictions do, beyond what accuracy makes them, on both data sets, and so do representations on "
        "digits (on shapes too few kinds of networks tell); that predictions do not converge does not hold",
        "hhhhnihn",
    ),
    "05_subgroups": (
        "shapes",
        "Are networks alike where they agree, and different where they do not?",
        "[K]",
        "Standard ones are ({0.value:.2f} of debiased CKA, {0.low:.2f} to {0.high:.2f}); the more robust, "
        "the less so, until at ε = 0.05 nothing is left to tell",
        "hhhhii",
    ),
    "06_probes": (
        "shapes",
        "Is it the classifiers that disagree?",
        "[K]",
        "No sign of it: probes fitted to their minimum agree no more than the networks' own classifiers "
        "({0.value:.3f}, {0.low:.3f} to {0.high:.3f})",
        "in",
    ),
}
REMARKS = """\
- The second claim of [B] holds as its effect was fixed in advance, and is not the whole story: over
  both directions the first layer is the weakest (accuracy under attack {first}, between {between},
  last {last}); what lifts the mean of the ends is robust fronts that are cut late. In the third,
  trained maps begin as the least-squares match, so that only the size of the difference tells.
- Of [J] one architecture stands apart: the standard MLP is nearly as smooth as the robust networks,
  which widens all three intervals. Similarity to standard networks on inverted images, over ε =
  {levels}: {towards}.
- Of [K] it matters by what one measures. On natural images, robust networks of `shapes` and of
  digits differ by {cka} of CKA, and by {jaccard} of the Jaccard overlap of their neighbours.
- Does inversion work? On `two_features` it is known what a network can have used. Networks that use
  the outline and networks that use the texture have nothing in common: on natural images their CKA
  is {natural}, on inverted ones {inverted}, while robust networks of one kind stay alike ({own})."""
LETTERS = {"holds": "h", "inconclusive": "i", "does not hold": "n"}
GROUPS = {
    "related, independent, wide, ReLU with dead rows, sparse, one-hot": (
        "related independent wide relu sparse one_hot"
    ),
    "heavy tails: rows scaled by Student's t of 3 degrees, exponentials": "t3 exponentials",
    "the same scales on unrelated rows": "t3_independent",
    "predictions, also of 99.6 % agreement, all agreeing, of two or of unequal classes": (
        "predictions accurate accurate_two imbalanced agreeing unequal"
    ),
    "overconfident predictions of that agreement": "accurate_sharp",
}


def markdown(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; bars within cells are escaped."""
    lines = [[str(cell).replace("|", r"\|") for cell in line] for line in [header, *rows]]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict_table(dataset: str, notebook: str) -> pd.DataFrame:
    """The claims that a notebook decided on a data set."""
    return pd.read_csv(FIGURES / dataset / f"{notebook[:2]}_verdicts.csv", keep_default_na=False)


# -- results ------------------------------------------------------------------------------------------------


def findings() -> str:
    """The README's line for each notebook."""
    rows = []
    for path in NOTEBOOKS:
        link = f"[`{path.stem}`](notebooks/{path.name})"
        if path.stem not in FINDINGS:
            rows.append((link, "Drag ε, click two layers, and see.", "for looking, not for claims"))
            continue
        dataset, question, papers, sentence, written_for = FINDINGS[path.stem]
        table = verdict_table(dataset, path.stem)
        found = "".join(LETTERS[verdict] for verdict in table.verdict)
        if found != written_for:
            raise ValueError(
                f"the sentence on {path.stem} in FINDINGS was written for the verdicts {written_for!r}, "
                f"which are {found!r} now: write it anew, then change the letters."
            )
        held = f"{written_for.count('h')} of {len(found)} claims hold"
        sentence = sentence.format(*table.itertuples())
        rows.append((f"{link} {papers}", question, f"{sentence}. *{held}.*"))
    return markdown(("notebook", "question", "finding"), rows)


def verdicts(*datasets: str) -> str:
    """Every claim with its effect, interval and verdict, on these data sets."""
    rows = []
    for dataset in datasets:
        for path in sorted((FIGURES / dataset).glob("*_verdicts.csv")):
            for claim in verdict_table(dataset, path.name).itertuples():
                interval = f"{claim.low:.3f} to {claim.high:.3f}" if claim.low != "" else ""
                rows.append(
                    (
                        path.name[:2],
                        dataset,
                        f"{claim.claim} ({claim.paper})" if claim.paper != "repsim" else claim.claim,
                        claim.effect,
                        f"{claim.value:.3f}",
                        interval,
                        claim.models,
                        claim.verdict,
                    )
                )
    return markdown(
        ("notebook", "data", "claim", "effect", "value", "95 % interval", "networks", "verdict"), rows
    )


def remarks() -> str:
    """Sentences on the results of digits and shapes whose numbers are those of the tables."""
    stitches = pd.read_csv(FIGURES / "digits" / "02_same_layer.csv")
    mixed = stitches[
        stitches.pair.isin(["standard → robust", "robust → standard"])
        & (stitches.fitting_method == "task loss, α = 1")
    ]
    first, *between, last = mixed.groupby("depth").robust_accuracy.mean()
    curve = pd.read_csv(FIGURES / "digits" / "03_over_epsilon.csv")
    towards = curve[(curve.inputs == "inverted") & curve.against.str.contains("standard")]
    levels = towards.groupby("epsilon_a").value.mean()
    differences = pd.read_csv(FIGURES / "digits" / "04_differences.csv")
    natural = differences[differences.inputs == "natural"].set_index("measure").difference.abs()
    truth = pd.read_csv(FIGURES / "digits" / "03_ground_truth.csv")
    unlike = {"outline", "texture"}
    apart = truth[[{a, b} == unlike for a, b in zip(truth.used_a, truth.used_b, strict=True)]]
    ranges = {
        inputs: f"{low:.2f} to {high:.2f}"
        for inputs, part in apart.groupby("inputs")
        for low, high in [_extremes(part.groupby(["used_a", "epsilon_a", "epsilon_b"]).value.mean())]
    }
    robust = truth[(truth.inputs == "inverted") & (truth.epsilon_a > 0) & (truth.epsilon_b > 0)]
    own = [robust[(robust.used_a == used) & (robust.used_b == used)].value.mean() for used in sorted(unlike)]
    return REMARKS.format(
        first=f"{first:.2f}",
        between=", ".join(f"{value:.2f}" for value in between),
        last=f"{last:.2f}",
        levels=", ".join(f"{level:g}" for level in levels.index),
        towards=", ".join(f"{value:.2f}" for value in levels),
        cka=f"{natural['cka']:.2f}",
        jaccard=f"{natural['jaccard']:.2f}",
        natural=ranges["natural"],
        inverted=ranges["inverted"],
        own=" and ".join(f"{value:.2f}" for value in own),
    )


def _extremes(values: pd.Series) -> tuple[float, float]:
    return values.min(), values.max()


# -- running ------------------------------------------------------------------------------------------------


def parameters() -> str:
    """The parameters that most notebooks share, then each notebook's own."""
    declared = {path.stem: Notebook.read(path).parameters for path in NOTEBOOKS}
    alike: dict[tuple, list[str]] = defaultdict(list)
    for notebook, own in declared.items():
        for parameter in own.values():
            alike[_row(parameter)].append(notebook)
    header = ("parameter", "type", "default", "meaning")
    common = [row for row, notebooks in alike.items() if len(notebooks) >= COMMON]
    everywhere = [
        (*row, "all" if len(alike[row]) == len(declared) else ", ".join(name[:2] for name in alike[row]))
        for row in common
    ]
    parts = ["### Of most notebooks", markdown((*header, "notebooks"), everywhere)]
    for path in NOTEBOOKS:
        rows = [_row(parameter) for parameter in declared[path.stem].values()]
        own = [row for row in rows if row not in common]
        parts += [f"### [{path.stem}](../notebooks/{path.name})", markdown(header, own)]
    return "\n\n".join(parts)


def _row(parameter) -> tuple[str, ...]:
    kind = parameter.type if isinstance(parameter.type, str) else str(parameter.type)
    return f"`{parameter.name}`", f"`{kind}`", f"`{parameter.default!r}`", parameter.help


# -- models, data, attacks ----------------------------------------------------------------------------------


def architectures() -> str:
    """The registered families, what they are, and how large."""
    families: dict[Callable, list[str]] = defaultdict(list)
    for name, architecture in ARCHITECTURES.items():
        families[architecture.build].append(name)
    rows = []
    for build, names in families.items():
        sizes = [_parameters(name) for name in names if not re.search("[A-Z]", name)]
        size = " to ".join(f"{count:,}" for count in sorted({min(sizes), max(sizes)})) if sizes else ""
        rows.append((", ".join(f"`{name}`" for name in names), _sentence(build), size))
    return markdown(("name", "network", "parameters (ten classes, 3 × 32 × 32)"), rows)


def _parameters(name: str) -> int:
    with torch.device("meta"):
        network = build_model(name, (3, 32, 32), 10, [0.5] * 3, [0.5] * 3)
    return sum(parameter.numel() for parameter in network.parameters())


def _sentence(documented: object) -> str:
    """The first paragraph of a docstring, without its full stop."""
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split()).removesuffix(".")


def datasets() -> str:
    """The registered loaders, and what their docstrings say."""
    rows = [(f"`{name}`", _sentence(loader)) for name, loader in LOADERS.items()]
    rows += [
        (
            "`folder:PATH`",
            "Any folder that holds `train/` and `test/` (or `val/`), each with a folder of images per class",
        ),
        ("`packed:PATH`", "What `repsim pack-images` made of such a folder"),
    ]
    return markdown(("name", "images"), rows)


def attacks() -> str:
    """The registered attacks: what they do, in which norms, and with how many steps."""
    rows = []
    for name, make in ATTACKS.items():
        attack = make_attack(name, 0.1)
        rows.append(
            (f"`{name}`", _sentence(getattr(make, "func", make)), ", ".join(attack.norms), attack.steps)
        )
    return markdown(("name", "attack", "norms", "steps"), rows)


def committed() -> str:
    """How many networks of each kind are committed."""
    rows: Counter = Counter()
    for name in zoo.ZOOS:
        for group, recipes in zoo.zoo_recipes(name).items():
            for recipe in filter(find, recipes):
                rows[name, group, recipe.architecture, recipe.norm] += 1
    found: dict[tuple, list[str]] = defaultdict(list)
    counts: Counter = Counter()
    for (name, group, architecture, norm), count in rows.items():
        found[name, group, norm].append(architecture)
        counts[name, group, norm] += count
    table = [
        (f"`{name}`", f"`{group}`", norm, ", ".join(f"`{each}`" for each in found[name, group, norm]), count)
        for (name, group, norm), count in counts.items()
    ]
    table.append(("all", "", "", "", sum(counts.values())))
    return markdown(("data set", "group", "norm", "architectures", "networks"), table)


def sweep() -> str:
    """How the package fares on the field's architectures: the table of `tests/architectures/results.md`."""
    text = (ROOT / "tests" / "architectures" / "results.md").read_text(encoding="utf-8")
    return text.split("\n## ")[0].strip()


# -- measures -----------------------------------------------------------------------------------------------


def measure_pages() -> str:
    """A section for every measure."""
    return "\n\n".join(documentation.section(name) for name in [*MEASURES, *PREDICTION_MEASURES])


def coverages() -> str:
    """How often intervals hold the truth, by groups of populations."""
    table = pd.read_csv(ROOT / "tests" / "coverages.csv")
    table = table[table.population != "population"]
    rows = []
    for title, populations in GROUPS.items():
        part = table[table.population.isin(populations.split())].astype(
            {"coverage": float, "width": float, "warned": float}
        )
        rows.append(
            (
                title,
                len(part),
                f"{part.coverage.mean():.3f}",
                f"{part.coverage.min():.3f}",
                f"{part.width.mean():.2f}",
                f"{part.width.max():.2f}",
                f"{part.warned.mean():.0%}",
            )
        )
    header = "populations|cells|mean coverage|least|mean width ÷ oracle|greatest|draws with a warning"
    return markdown(header.split("|"), rows)


# -- speed --------------------------------------------------------------------------------------------------


def speed() -> str:
    """What `make bench` has written, one table a benchmark."""
    with (ROOT / "docs" / "speed.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return "Nothing has been measured yet: `make bench`."
    parts = []
    for title in dict.fromkeys(row["title"] for row in rows):
        own = [row for row in rows if row["title"] == title]
        cells = [[row[key] for key in ("quantity", "amount", "ratio", "target", "met")] for row in own]
        parts += [f"## {title}", markdown(("", "amount", "ratio", "target", ""), cells)]
        parts += [note for note in (own[0]["notes"], f"Measured on {own[0]['machine']}.") if note]
    return "\n\n".join(parts)


BLOCKS: dict[str, Callable[[], str]] = {
    "findings": findings,
    "verdicts": partial(verdicts, "digits", "shapes"),
    "verdicts_cifar10": partial(verdicts, "cifar10"),
    "remarks": remarks,
    "parameters": parameters,
    "architectures": architectures,
    "datasets": datasets,
    "attacks": attacks,
    "committed": committed,
    "sweep": sweep,
    "measures": documentation.table,
    "prediction_measures": documentation.prediction_table,
    "measure_pages": measure_pages,
    "coverages": coverages,
    "speed": speed,
}


def pages() -> list[Path]:
    """The files that have generated parts."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path for path in files if BLOCK.search(path.read_text(encoding="utf-8"))]


def regenerated(text: str) -> str:
    """A page with its generated parts written anew."""
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]]()}\n{block[3]}", text)


if __name__ == "__main__":
    for page in pages():
        old = page.read_text(encoding="utf-8")
        page.write_text(regenerated(old), encoding="utf-8")
