"""The results of a setting as figures with their tables, and as parameters of a batch run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure

from repsim.attacks import epsilon_text
from repsim.explorer.backend import Backend
from repsim.explorer.setting import Results, Setting, network_text
from repsim.figures import plots
from repsim.measures import find_measure
from repsim.support import artifacts, paths

FORMATS = ("png", "pdf")
EPSILONS = ("trained_a", "trained_b", "epsilon")  # which notebooks take as text


def parameters(setting: Setting) -> dict[str, object]:
    """The parameters of notebook 07."""
    found = dataclasses.asdict(setting)
    return {**found, **{name: epsilon_text(found[name]) for name in EPSILONS}}


def save_results(results: Results, backend: Backend) -> list[Path]:
    """Write complete results: `figures/<dataset>/07_*.png`, `.pdf`, `.csv`, and `07_setting.yaml`."""
    slug = backend.dataset(results.setting.dataset).slug
    saved = []
    for name, (figure, table) in figures(results).items():
        plots.save(figure, table, slug, name, formats=FORMATS)
        saved += [paths.figures(slug) / f"{name}.{suffix}" for suffix in (*FORMATS, "csv")]
    path = paths.figures(slug) / "07_setting.yaml"
    with artifacts.atomic(path) as temporary:
        text = yaml.safe_dump(parameters(results.setting), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
    return [*saved, path]


def figures(results: Results) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """The views of results, by the names of their files, each with its table."""
    at = results.setting
    measure = find_measure(at.measure)
    names = {
        "A": network_text(at.architecture_a, at.trained_a),
        "B": network_text(at.architecture_b, at.trained_b),
    }
    described = {"dataset": at.dataset, **parameters(at)}
    described = {name: value for name, value in described.items() if name not in ("layer_a", "layer_b")}

    def told(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{name: value for name, value in described.items() if name not in table})

    sides = {"axes_labels": (f"A: {names['A']}", f"B: {names['B']}")}
    low = min(0.0, float(results.map.min(axis=None)))
    map_figure = plots.heat_maps({f"{at.inputs} images": results.map}, label=measure.label, low=low, **sides)
    pairs = results.map.rename_axis(index="layer_a", columns="layer_b").stack().rename("value").reset_index()
    curve = results.curve.assign(network=results.curve["network"].map(names))
    label = {"value": f"{measure.label}, natural – attacked at ε = {epsilon_text(at.epsilon)}"}
    curve_figure = plots.panels(curve, "depth", label, "network", labels={"network": ""}, ordered=False)
    pictures = plots.image_grid(
        {"": torch.stack([*results.pictures.values()])}, columns=list(results.pictures)
    )
    pixels = pd.DataFrame(
        [
            {"picture": name, "row": row, "column": column, "channel": channel, "value": value}
            for name, image in results.pictures.items()
            for channel, plane in enumerate(image.tolist())
            for row, line in enumerate(plane)
            for column, value in enumerate(line)
        ]
    )
    answers = results.answers.assign(network=results.answers["network"].map(names))
    answers_figure = plots.bars(answers, "class", "probability", "network", labels={"network": ""})
    return {
        "07_map": (map_figure, told(pairs)),
        "07_curve": (curve_figure, told(curve)),
        "07_pictures": (pictures, pixels),
        "07_answers": (answers_figure, told(answers).assign(true=results.true)),
    }
