"""What the sweep asks of one network: is it looked into rightly, cut rightly, and compared rightly?"""

from __future__ import annotations

import copy
import itertools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from networks import IMAGES, build, randomize
from torch import Tensor, nn
from watching import AFFINE, Watched, channel_axis, cka, rows_first, watch

from repsim.activations import LayerGraph, Observer, capture, trace
from repsim.models import logits_of
from repsim.studies.cka_maps.layer_maps import as_matrix, layer_cka
from repsim.studies.stitching.network import kind_of_stitch, make_transform, splice

FEW = 4  # images, where 8 are not needed
VALUES, STITCHES, MAPPED = 40, 5, 8  # layers, spread over depth
LARGE, FEWER_STITCHES = 60_000_000, 2  # parameters of a network of which few copies are made: it takes long
WIDEST = 4096  # channels: an identity of more is only large
WIDEST_FITTED, FITTED = 800, 1e-3  # of a layer that the logits are fitted from, and what may be left of them

# What rounding may do, relative to the largest value.
TRACED, HOOKED, ALONE, LOGITS, CKA = 0.0, 1e-6, 1e-3, 1e-4, 1e-3


@dataclass
class Row:
    """What was found for one network. `verdict`: right, refused (as a whole), wrong, crash or timeout."""

    library: str
    name: str
    verdict: str = "right"
    how: str = ""
    reason: str = ""
    parameters: int = 0
    side: int = 0
    layers: int = 0
    left_out: int = 0  # calls of innermost modules that are no layer
    values_compared: int = 0
    value_error: float = 0.0
    logits_error: float = 0.0
    stitches: int = 0
    stitch_error: float = 0.0
    cka_compared: int = 0
    cka_error: float = 0.0
    pooled_compared: int = 0
    pooled_error: float = 0.0
    penultimate: str = ""
    penultimate_checked: str = ""
    blocks: int = 0
    refusals: str = ""
    wrong: str = ""
    crash: str = ""
    seconds: float = 0.0


COLUMNS = list(asdict(Row("", "")))


@dataclass
class Findings:
    """What one network's checks have in common, and what they say of it."""

    network: nn.Module
    graph: LayerGraph
    images: Tensor
    watched: Watched  # of all images
    row: Row
    refusals: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    def attempt(self, stage: str, check: Callable[[Findings], None]) -> None:
        """Run a check: a ValueError is a refusal, in words; anything else that is raised is a crash."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(self)
        except ValueError as error:
            note(self.refusals, f"{stage}: {error}")
        except Exception as error:
            note(self.crashes, f"{stage}: {described(error)}")

    def expect(self, what: str, error: float, most: float) -> float:
        """Note an error that is too large, or no number."""
        if not error <= most:
            self.wrong.append(f"{what}: {error:.2g}")
        return error

    def expect_logits(self, what: str, logits: Tensor, own: Tensor) -> float:
        """Note logits that are not the network's own, but for what rounding does to these themselves.

        With BatchNorm folded, or cut in two, a network rounds in another order. Deep ones are off by more
        than `LOGITS` from the same network in float64, whoever computes them.
        """
        error = distance(logits, own)
        if error <= LOGITS:
            return error
        with torch.no_grad():
            precise = copy.deepcopy(self.network).double()(self.images[: len(own)].double())
        precise = logits_of(precise).float()
        rounding = distance(own, precise)
        return self.expect(f"{what} (rounding {rounding:.2g})", distance(logits, precise), 2 * rounding)


def note(texts: list[str], text: str) -> None:
    if text not in texts:
        texts.append(text)


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def check(library: str, name: str) -> dict:
    """The row of one network, as a dictionary."""
    start = time.perf_counter()
    row = Row(library, name)
    torch.manual_seed(0)
    network, row.side = build(library, name)
    row.parameters = sum(weight.numel() for weight in network.parameters())
    shape = (3, row.side, row.side)
    images = torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(1))
    randomize(network, images)
    watched = watch(network, images)
    if watched.logits is not None and not varies(watched.logits):  # some take their own beginning only
        network, row.side = build(library, name)
        watched = watch(network.eval(), images)
    logits = watched.logits
    if logits is not None and not (logits.isfinite().all() and varies(logits)):
        raise ArithmeticError("these weights give all images the same logits, or none: mend the sweep.")
    try:
        graph = trace(network, shape)
    except ValueError as error:
        row.verdict, row.refusals = "refused", str(error)
    except Exception as error:
        row.verdict, row.crash = "crash", f"trace: {described(error)}"
    else:
        row.how = getattr(graph, "how", "traced" if type(graph).__name__ == "TracedGraph" else "hooked")
        row.reason = str(getattr(graph, "reason", None) or "")
        row.layers = len(graph.layers)
        row.left_out = left_out(graph, watched)
        found = Findings(network, graph, images, watched, row)
        found.attempt("values", check_values)
        found.attempt("output", check_output)
        check_stitches(found)
        found.attempt("cka", lambda found: check_cka(found, pool=False))
        found.attempt("pooled cka", lambda found: check_cka(found, pool=True))
        found.attempt("penultimate", check_penultimate)
        found.attempt("blocks", check_blocks)
        row.refusals, row.wrong, row.crash = map("; ".join, (found.refusals, found.wrong, found.crashes))
        row.verdict = "wrong" if found.wrong else "crash" if found.crashes else "right"
    row.seconds = time.perf_counter() - start
    return asdict(row)


def check_values(found: Findings) -> None:
    """Layers that are calls of modules have the values that hooks see, for all images and for one alone."""
    images = found.images[:FEW]
    watched = watch(found.network, images)
    alone = {place: watch(found.network, images[place : place + 1]) for place in (0, FEW - 1)}
    names = calls_behind(found.graph, watched)
    if not names:
        found.wrong.append("values: no layer is a call of a module")
        return
    chosen = spread(list(names), VALUES)
    values = capture(found.graph, images.clone(), chosen)
    most = TRACED if found.row.how == "traced" else HOOKED
    for layer in chosen:
        value, own = values[layer], watched.values[names[layer]]
        if len(value) != FEW:
            found.wrong.append(f"{layer}: {tuple(value.shape)} for {FEW} images, {tuple(own.shape)} inside")
            continue
        error = min((distance(value, reading) for reading in rows_first(own, FEW)), default=math.inf)
        found.row.value_error = max(found.row.value_error, found.expect(f"value of {layer}", error, most))
        for place, single in alone.items():
            row, own = value[place], single.values.get(names[layer])
            error = math.inf if own is None else distance(row.flatten(), own.flatten())
            found.expect(f"{layer} of image {place} alone", error, ALONE)
        found.row.values_compared += 1


def calls_behind(graph: LayerGraph, watched: Watched) -> dict[str, str]:
    """Layer → the name that hooks have for the same call of a module, of the layers that are such a call."""
    names = {}
    for path, calls in watched.calls.items():
        if path in graph.layers:
            names[path] = path
        further = [
            name
            for name in graph.layers
            if name not in watched.calls
            and name.rpartition("_")[0] == path
            and name.rpartition("_")[2].isdigit()
        ]
        further = [
            name for name in further if graph.layers[name].operation == type(watched.modules[path]).__name__
        ]
        if len(further) == len(calls) - 1:  # functions, which hooks do not see, may have taken a name
            names |= dict(zip(further, calls[1:], strict=True))
        else:
            names |= {name: name for name in further if name in calls}
    return {name: names[name] for name in graph.layers if name in names}


def left_out(graph: LayerGraph, watched: Watched) -> int:
    """How many calls of innermost modules are no layer."""
    known = set(calls_behind(graph, watched).values())
    return sum(name not in known and not list(watched.modules[name].children()) for name in watched.order)


def check_output(found: Findings) -> None:
    """The last layer, where hooks see it put out the logits, and the output beside layers are the logits."""
    own = found.watched.logits
    if own is None:
        found.refusals.append("output: the network has no logits")
        return
    last = list(found.graph.layers)[-1]
    final = found.watched.order[-1]
    if torch.equal(found.watched.values[final].flatten(), own.flatten()) and final in found.graph.layers:
        value = capture(found.graph, found.images.clone(), last)[last]
        found.row.logits_error = found.expect_logits(f"last layer, {last}", value.flatten(1), own)
    seen = Observer(found.graph, [last]).observe(found.images.clone())
    found.row.logits_error = max(
        found.row.logits_error, found.expect_logits("logits beside layers", seen.logits, own)
    )


def check_stitches(found: Findings) -> None:
    """A network stitched to itself by the identity is the network."""
    graph, own = found.graph, found.watched.logits
    if own is None:
        return
    images, own = found.images[:FEW], own[:FEW]
    layers = list(graph.layers)
    tried: set[str] = set()
    count = STITCHES if found.row.parameters < LARGE else FEWER_STITCHES
    for place in range(count):
        start = round((place + 0.5) / count * len(layers))

        def stitched(found: Findings, start: int = start) -> None:
            layer = next(
                (name for name in layers[start:] if name not in tried and can_stitch(graph, name)), None
            )
            if layer is None:
                return
            tried.add(layer)
            try:
                transform = make_transform(graph, graph, layer, layer, initial="identity")
                with torch.no_grad():
                    logits = splice(graph, graph, layer, layer, transform)(images.clone())
            except ValueError as error:
                raise ValueError(f"{layer}: {error}") from error
            logits = logits["logits"] if not isinstance(logits, Tensor) else logits
            error = found.expect_logits(f"stitch at {layer}", logits, own)
            found.row.stitch_error = max(found.row.stitch_error, error)
            found.row.stitches += 1

        found.attempt("stitch", stitched)


def can_stitch(graph: LayerGraph, layer: str) -> bool:
    shape = graph.layers[layer].shape
    channels = shape[0] if len(shape) in (1, 3) else shape[-1]
    return max(channels, shape[-1]) <= WIDEST and not kind_of_stitch(graph, layer).startswith("no")


def check_cka(found: Findings, pool: bool) -> None:
    """The map of a few layers has a diagonal of 1, and the values that hooks and float64 give."""
    names = calls_behind(found.graph, found.watched)
    known = [name for name in names if rows_first(found.watched.values[names[name]], IMAGES)]
    chosen = spread(known, MAPPED)
    estimator = "biased" if pool else "unbiased"
    matrix = as_matrix(
        layer_cka(
            found.graph,
            found.graph,
            found.images.clone(),
            layers_a=chosen,
            layers_b=chosen,
            estimator=estimator,
            batch_size=None,
            pool=pool,
            progress=False,
        )
    )
    words = "pooled CKA" if pool else "CKA"
    readings = {name: readings_of(found.watched, names[name], pool) for name in chosen}
    # the mean of attention over all that is attended to is the same for every image
    varying = [name for name in chosen if all(varies(reading) for reading in readings[name])]
    for name in varying:
        found.expect(f"{words} of {name} with itself", abs(matrix.loc[name, name] - 1), 1e-6)
    worst, count = 0.0, 0
    for first, second in itertools.pairwise(varying):
        value = matrix.loc[first, second]
        error = min(abs(value - cka(x, y, estimator)) for x in readings[first] for y in readings[second])
        worst = max(worst, found.expect(f"{words} of {first} and {second}", error, CKA))
        count += 1
    if pool:
        found.row.pooled_error, found.row.pooled_compared = worst, count
    else:
        found.row.cka_error, found.row.cka_compared = worst, count


def readings_of(watched: Watched, name: str, pool: bool) -> list[Tensor]:
    """A layer's value as a matrix of one row for each image; several where its kind leaves more than one."""
    value, module = watched.values[name], watched.modules[name]
    if len(value) != IMAGES or not pool:
        rows = [value] if len(value) == IMAGES else rows_first(value, IMAGES)
        axes = [None] * len(rows)
    else:
        rows, axes = [value], [channel_axis(name, module, value)]
    readings = []
    for each, axis in zip(rows, axes, strict=True):
        if not pool or each.dim() <= 2:
            readings.append(each.flatten(1))
            continue
        for channels in range(1, each.dim()) if axis is None else [axis]:
            readings.append(each.movedim(channels, 1).flatten(2).mean(2))
    return readings


def varies(rows: Tensor) -> bool:
    """Whether rows differ by much more than float32's rounding."""
    rows = rows.double().flatten(1)
    return bool((rows - rows.mean(0)).norm() > 1e-3 * rows.norm())


def check_penultimate(found: Findings) -> None:
    """It is what the last linear layer takes, if that gives the logits; else they are an affine map of it."""
    layer = found.graph.select("penultimate")[0]
    found.row.penultimate = f"{layer} {found.graph.values[layer].shape}"
    value = capture(found.graph, found.images.clone(), layer)[layer]
    watched, logits = found.watched, found.watched.logits
    last = [name for name in watched.order if isinstance(watched.modules[name], AFFINE)][-1]
    path = next(path for path, calls in watched.calls.items() if last in calls)
    own = watched.values[last]
    if logits is not None and own.numel() == logits.numel() and torch.equal(own.flatten(), logits.flatten()):
        taken = watched.taken[path]
        same = value.numel() == taken.numel()
        error = distance(value.flatten(), taken.flatten()) if same else math.inf
        found.expect(f"penultimate, {layer}, beside what {path} takes", error, HOOKED)
        found.row.penultimate_checked = "input of the last linear layer"
    elif logits is not None and value[0].numel() <= WIDEST_FITTED:
        error = misfit(found, layer, value[0].numel())
        found.expect(f"penultimate, {layer}: the logits are no affine map of it", error, FITTED)
        found.row.penultimate_checked = "the logits are an affine map of it"


def misfit(found: Findings, layer: str, width: int) -> float:
    """What the best affine map from a layer's values leaves of the logits, as a share of how they vary."""
    count = width + 64  # more images than the map has weights for each logit
    images = torch.rand(count, *found.images.shape[1:], generator=torch.Generator().manual_seed(2))
    values, logits = [], []
    for batch in images.split(64):
        values.append(capture(found.graph, batch.clone(), layer)[layer].flatten(1).double())
        logits.append(watch(found.network, batch).logits.double())
    value, own = torch.cat(values), torch.cat(logits)
    value, own = value - value.mean(0), own - own.mean(0)
    # By projection on what spans the values: of features that nearly agree, no weight grows large.
    basis, sizes, _ = torch.linalg.svd(value, full_matrices=False)
    basis = basis[:, sizes > 1e-6 * sizes[0]]
    return ((own - basis @ (basis.T @ own)).norm() / own.norm()).item()


def check_blocks(found: Findings) -> None:
    found.row.blocks = len(found.graph.select("blocks"))


def spread(names: list[str], count: int) -> list[str]:
    """So many of them, evenly spaced, with the first and the last."""
    if len(names) <= count:
        return names
    return [names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)]


def distance(value: Tensor, own: Tensor) -> float:
    """The largest difference, relative to the largest value; infinite where the shapes differ."""
    if value.shape != own.shape:
        return math.inf
    if torch.equal(value, own):
        return 0.0
    difference = (value.double() - own.double()).abs().max().item()
    return difference / max(own.double().abs().max().item(), 1e-12)
