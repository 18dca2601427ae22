"""Pictures, curves and bars of results as HTML: quick to draw, and read out by a screen reader."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image
from torch import Tensor

COLOURS = {"A": "#0173b2", "B": "#de8f05"}  # seaborn's, for the colour blind
WIDTH, HEIGHT, LEFT, BOTTOM = 384, 190, 34, 18  # of curves, in pixels
SIDE = 62  # of a picture


def picture(image: Float[Tensor, "c h w"], name: str, note: str = "") -> str:
    """An image with its name below."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "png")
    source = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure style="margin:0 8px 2px 0;text-align:center;font-size:12px">'
        f'<img alt="{escape(name)}" width="{SIDE}" height="{SIDE}" style="image-rendering:pixelated" '
        f'src="data:image/png;base64,{source}"><figcaption>{escape(name)}{note}</figcaption></figure>'
    )


def pictures(images: Mapping[str, Float[Tensor, "c h w"]]) -> str:
    """Images side by side, with their names."""
    return _line("".join(picture(image, name) for name, image in images.items()))


def answers(table: pd.DataFrame, true: str, inputs: str) -> str:
    """Class probabilities of both networks as bars; the true class in bold.

    Parameters
    ----------
    table
        As `Scene.answers`.
    inputs
        What the networks look at.
    """
    wide = table.pivot(index="class", columns="network", values="probability").loc[table["class"].unique()]
    rows = []
    for name, line in wide.iterrows():
        weight = "bold" if name == true else "normal"
        bars = "".join(
            f'<td style="width:90px"><div style="background:{COLOURS[network]};height:10px;'
            f'width:{max(share * 90, 0.5):.1f}px" title="{network}: {share:.3f}"></div></td>'
            f'<td style="width:34px;text-align:right">{share:.2f}</td>'
            for network, share in line.items()
        )
        rows.append(
            f'<tr><th style="font-weight:{weight};text-align:right">{escape(str(name))}</th>{bars}</tr>'
        )
    head = "".join(f'<th colspan="2" style="color:{COLOURS[each]}">{each}</th>' for each in wide.columns)
    return (
        f'<div style="font-size:13px;font-weight:bold">answers to the {inputs} image</div>'
        '<table style="font-size:12px;line-height:14px;border-spacing:4px 0">'
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table>"
    )


def curves(table: pd.DataFrame, chosen: Mapping[str, str], label: str) -> str:
    """Similarity along depth, of both networks; the chosen layer of each is marked.

    Parameters
    ----------
    table
        As `Scene.curve`.
    chosen
        Network → layer.
    label
        What is on the vertical axis.
    """
    known = table.loc[np.isfinite(table["value"]), "value"]
    low, high = min(0.0, known.min()), max(1.0, known.max())

    def place(depth: float, value: float) -> tuple[float, float]:
        x = LEFT + depth * (WIDTH - LEFT - 8)
        return x, 8 + (HEIGHT - BOTTOM - 8) * (1 - (value - low) / (high - low))

    parts = []
    for tick in np.linspace(low, high, 3):
        _, y = place(0, tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for network, own in table.groupby("network"):
        own = own[np.isfinite(own["value"])]
        points = [place(*pair) for pair in zip(own["depth"], own["value"], strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[network]}" stroke-width="2"/>')
        for (x, y), layer, value in zip(points, own["layer"], own["value"], strict=True):
            size = 5 if layer == chosen.get(network) else 2
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{COLOURS[network]}">'
                f"<title>{network}, {escape(layer)}: {value:.3f}</title></circle>"
            )
    parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 4}" text-anchor="end">last layer</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 4}">first layer</text>')
    return (
        f'<div style="font-size:13px;font-weight:bold">{escape(label)} {_names()}</div>'
        f'<svg role="img" aria-label="{escape(label)} along depth" width="{WIDTH}" height="{HEIGHT}" '
        f'style="font-size:11px;fill:currentColor">{"".join(parts)}</svg>'
    )


def neighbors(
    rows: Mapping[str, Sequence[int]], images: Float[Tensor, "n c h w"], classes: Sequence[str]
) -> str:
    """The nearest images by either network, with their classes; those that both name have a star.

    Parameters
    ----------
    rows
        As `Scene.neighbors`.
    classes
        Of each image.
    """
    both = set.intersection(*(set(own) for own in rows.values()))
    return "".join(
        f'<div style="color:{COLOURS[network]};font-size:12px;font-weight:bold">nearest, by {network}</div>'
        + _line("".join(picture(images[i], classes[i], " ★" if i in both else "") for i in own))
        for network, own in rows.items()
    )


def stitched(table: pd.DataFrame) -> str:
    """Accuracies of the stored stitches at the chosen layers."""
    if table.empty:
        return '<span style="font-size:12px">No stitch of these two layers is in the store.</span>'
    rows = "".join(
        f"<tr><td>{escape(row.fitting_method)}</td><td>{row.clean:.3f}</td><td>{row.robust:.3f}</td></tr>"
        for row in table.itertuples()
    )
    return (
        '<table style="font-size:12px;line-height:14px;border-spacing:8px 0"><tr>'
        '<th style="text-align:left">A stitched to B</th><th>clean</th>'
        f"<th>robust</th></tr>{rows}</table>"
    )


def message(texts: Sequence[str]) -> str:
    """The message of what could not be shown."""
    lines = "".join(f"<div>⚠ {escape(text)}</div>" for text in texts)
    return f'<div role="alert" style="color:#a50f15;max-width:760px;line-height:1.3">{lines}</div>'


def _names() -> str:
    return " ".join(f'<span style="color:{colour}">— {name}</span>' for name, colour in COLOURS.items())


def _line(inside: str) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;line-height:1.2">{inside}</div>'
