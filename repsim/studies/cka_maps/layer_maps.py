"""The similarity of every layer with every layer, in one streamed pass over the inputs.

For each batch, each layer's Gram matrix is made once (not once per pair) and laid flat as one row; the map
of that batch is then a single matrix product. Memory grows with layers × batch², never with the inputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repsim.activations import LayerGraph, Layers, as_rows, trace
from repsim.data import ImageSource, as_images, as_images_in_order, batches_of_images, is_one_shot, shuffles
from repsim.measures.hsic import Estimator, centered_gram, hsic_scale, recenter_
from repsim.support.progress import progress_bar

MEASURE_OF = {"unbiased": "cka_debiased", "biased": "cka"}  # what each estimator estimates
SMALLEST = 4  # the unbiased HSIC divides by n (n − 3)
ROUNDING = 1e-9  # the depth of layer 12 of 34 is a third, and a little more in floating point


def layer_cka(
    model_a: nn.Module | LayerGraph,
    model_b: nn.Module | LayerGraph,
    images: ImageSource | tuple[ImageSource, ImageSource],
    *,
    layers_a: Layers = "all",
    layers_b: Layers = "all",
    estimator: Estimator = "unbiased",
    batch_size: int | None = 128,
    passes: int = 1,
    pool: bool = False,
    names: tuple[str, str] = ("a", "b"),
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Linear CKA of layers of one network with layers of another.

    HSICs are averaged over batches and passes, weighted by batch size, and then divided once (Nguyen et
    al., 2021). With the unbiased estimator the result hardly depends on the batch size; with the biased
    one it does, unless the batch is everything.

    Parameters
    ----------
    model_a, model_b
        Networks, or their `trace`. When they are the same object with the same images and layers, it runs
        once, and the map is symmetric with a diagonal of 1.
    images
        In [0, 1], for both models: a tensor, an array, or batches of them, such as a `DataLoader` (see
        `as_images`); or a tuple of two, row i of which belong together (natural and adversarial images, or
        two data sets with matching rows). Of a generator, batches are made in the order given, in one pass.
    layers_a, layers_b
        `all`, `blocks`, `penultimate`, names, or a fraction of all layers, evenly spaced.
    estimator
        Of the HSIC: `unbiased` (Song et al., 2012), or the `biased` one of Kornblith et al. (2019).
    batch_size
        Rows of a Gram matrix, about: batches are made equally large, so that none is left over. The work
        grows with it. None: all images are one batch.
    passes
        How often the images are gone through, each time in other batches.
    pool
        Average feature maps over their positions (and tokens) first, rather than flatten them.
    names
        What the table calls the two models.
    seed
        Of the order in which images fall into batches: files sorted by class must not make one-class batches.
    progress
        Show a progress bar over the batches.

    Returns
    -------
    DataFrame
        One row per pair of layers: `model_a`, `model_b`, `layer_a`, `layer_b`, `measure`, `value`, `n`.
        `as_matrix` makes the map of it.

    Raises
    ------
    ValueError
        Fewer than 4 images or rows per batch, images outside [0, 1], or different numbers of images; an
        unknown layer, or one that the network does not compute for some images; more than one pass over a
        generator; or a layer whose activations are not finite (it is named).
    """
    _check_options(batch_size, passes)
    sources = images if isinstance(images, tuple) else (images,)
    if sources[0] is sources[-1]:
        sources = sources[:1]
    batches = _Batches(sources, batch_size, passes, seed)
    graph_a = _as_graph(model_a, batches.image_shapes[0])
    itself = model_a is model_b and len(sources) == 1
    graph_b = graph_a if itself else _as_graph(model_b, batches.image_shapes[-1])
    chosen_a, chosen_b = graph_a.select(layers_a), graph_b.select(layers_b)
    sides = [(graph_a, chosen_a)]
    if itself:
        sides[0] = (graph_a, list(dict.fromkeys(chosen_a + chosen_b)))
    else:
        sides.append((graph_b, chosen_b))

    counts = [len(side[1]) for side in sides]
    total = torch.zeros(counts[0], counts[-1], dtype=torch.float64)
    own = [torch.zeros(count, dtype=torch.float64) for count in counts]  # each layer's HSIC with itself
    count = 0
    for batch in progress_bar(batches, "layer CKA", "batch", progress, total=batches.number):
        n = len(batch[0])
        count += n
        weight = n * hsic_scale(n, estimator)
        stacks = [
            _gram_stack(*side, seen, estimator, pool, sides[0][0].device)
            for side, seen in zip(sides, (batch[0], batch[-1]), strict=False)
        ]
        total += weight * (stacks[0] @ stacks[-1].T).cpu()
        for sums, stack in zip(own, stacks, strict=True):
            sums += weight * stack.norm(dim=1).square().cpu()

    for sums, side, name in zip(own, sides, names, strict=False):
        _warn_of_constant(sums, side[1], name)
    values = total / (_positive(own[0])[:, None] * _positive(own[-1])[None, :]).sqrt()
    if itself:
        values = (values + values.T) / 2  # equal but for rounding
        values.diagonal()[own[0] > 0] = 1.0
        place = {layer: i for i, layer in enumerate(sides[0][1])}
        values = values[[place[name] for name in chosen_a]][:, [place[name] for name in chosen_b]]
    pairs = pd.MultiIndex.from_product([chosen_a, chosen_b], names=["layer_a", "layer_b"])
    table = pd.DataFrame({"value": values.flatten().numpy()}, index=pairs).reset_index()
    table.insert(0, "model_a", names[0])
    table.insert(1, "model_b", names[0] if itself else names[1])
    table.insert(4, "measure", MEASURE_OF[estimator])
    table["n"] = count // passes
    return table


def as_matrix(
    table: pd.DataFrame, down: str = "layer_a", across: str = "layer_b", values: str = "value"
) -> pd.DataFrame:
    """The map in a table of `layer_cka`, or another: layers of the first model down, of the second across."""
    rows, columns = table[down].unique(), table[across].unique()
    return table.pivot(index=down, columns=across, values=values).loc[rows, columns]


def matched_cka(
    model: nn.Module | LayerGraph,
    images_a: ImageSource,
    images_b: ImageSource,
    *,
    layers: Layers = "all",
    **options,
) -> pd.DataFrame:
    """CKA of each layer with itself, on two versions of the same images (natural and adversarial).

    Returns
    -------
    DataFrame
        One row per layer: `layer`, `depth` (0 at the first chosen layer, 1 at the last), `value`.
    """
    images_a, images_b = as_images_in_order(images_a), as_images_in_order(images_b)
    graph = _as_graph(model, images_a.shape[1:])
    chosen = graph.select(layers)
    matrix = as_matrix(
        layer_cka(graph, graph, (images_a, images_b), layers_a=chosen, layers_b=chosen, **options)
    )
    return pd.DataFrame(
        {
            "layer": chosen,
            "depth": np.linspace(0, 1, len(chosen)),
            "value": np.diagonal(matrix.to_numpy()),
        }
    )


def last_minus_first_third(table: pd.DataFrame, labels: list[str]) -> pd.Series:
    """The difference of a quantity between the last third of the layers and the first.

    Parameters
    ----------
    table
        With columns `depth` (0 at the first layer, 1 at the last) and `value`.
    labels
        The columns that tell models apart.
    """
    first = table[table["depth"] < 1 / 3 + ROUNDING].groupby(labels, sort=False)["value"].mean()
    last = table[table["depth"] > 2 / 3 - ROUNDING].groupby(labels, sort=False)["value"].mean()
    return last - first


def block_strength(matrix: pd.DataFrame | Float[np.ndarray, "l l"]) -> float:
    """The degree to which a map of a model with itself looks like one block of alike layers and a rest.

    The maximum over contiguous intervals of ¼ to ¾ of the layers of the mean CKA inside the interval (off
    the diagonal) minus the mean CKA between inside and outside. NaN if any value is.

    Raises
    ------
    ValueError
        Fewer than 3 layers.
    """
    values = np.asarray(matrix, dtype=float)
    depth = len(values)
    if depth < 3:
        raise ValueError(f"block structure needs a map of at least 3 layers, got {depth}.")
    # sums over any rectangle from the two-dimensional running sum
    running = np.zeros((depth + 1, depth + 1))
    running[1:, 1:] = values.cumsum(0).cumsum(1)
    trace_sum = np.concatenate([[0.0], np.diagonal(values).cumsum()])
    contrasts = []
    for length in range(max(2, math.ceil(depth / 4)), math.floor(3 * depth / 4) + 1):
        for first in range(depth - length + 1):
            last = first + length
            inside = running[last, last] - running[first, last] - running[last, first] + running[first, first]
            rows = running[last, depth] - running[first, depth]
            off_diagonal = inside - (trace_sum[last] - trace_sum[first])
            within = off_diagonal / (length * (length - 1))
            between = (rows - inside) / (length * (depth - length))
            contrasts.append(within - between)
    return float(np.max(contrasts))


def mean_off_diagonal(matrix: pd.DataFrame | Float[np.ndarray, "l l"]) -> float:
    """Mean similarity of different layers: high where layers specialise little."""
    values = np.asarray(matrix, dtype=float)
    depth = len(values)
    return float((values.sum() - np.trace(values)) / (depth * (depth - 1)))


def _check_options(batch_size: int | None, passes: int) -> None:
    if batch_size is not None and batch_size < SMALLEST:
        raise ValueError(f"batch_size must be at least {SMALLEST}, or None for one batch, not {batch_size}.")
    if passes < 1:
        raise ValueError(f"passes must be at least 1, not {passes}.")


def _as_graph(model: nn.Module | LayerGraph, image_shape: Sequence[int]) -> LayerGraph:
    return model if isinstance(model, LayerGraph) else trace(model, image_shape)


class _Batches:
    """Batches of images, as tuples of one tensor for each source; matching rows belong together.

    Images that are there are shuffled, and batches equally large up to one image: a small rest would be
    noisy, or too small. Images that come by and by (of a generator) are taken in their order, and what would
    be too small a rest joins the batch before it.

    Attributes
    ----------
    image_shapes
        Of the sources' images.
    number
        How many batches there are; None where it is not known.
    """

    def __init__(self, sources: Sequence[ImageSource], batch_size: int | None, passes: int, seed: int):
        self.batch_size, self.passes, self.seed = batch_size, passes, seed
        self.number: int | None = None
        self._one_shot = [is_one_shot(source) for source in sources]
        if any(self._one_shot):
            if passes > 1:
                raise ValueError("a generator of images can be gone through once only: passes must be 1.")
            streams = [
                batches_of_images(source if once else as_images(source).split(batch_size or SMALLEST))
                for source, once in zip(sources, self._one_shot, strict=True)
            ]
            self._coming = [_Coming(stream) for stream in streams]
            self.image_shapes = [coming.held.shape[1:] for coming in self._coming]
            return
        if len(sources) > 1 and any(shuffles(source) for source in sources):
            raise ValueError(
                "images of two sources belong together row by row, and a loader that shuffles gives its own "
                "in another order each time: give loaders that do not shuffle."
            )
        self._images = [as_images(source) for source in sources]
        self.image_shapes = [images.shape[1:] for images in self._images]
        counts = [len(images) for images in self._images]
        if len(set(counts)) > 1:
            raise ValueError(f"the two models need matching rows, got {counts[0]} and {counts[1]} images.")
        if counts[0] < SMALLEST:
            raise ValueError(f"CKA needs at least {SMALLEST} images, got {counts[0]}.")
        self._in_pass = 1
        if batch_size is not None:
            self._in_pass = max(1, min(round(counts[0] / batch_size), counts[0] // SMALLEST))
        self.number = self._in_pass * passes

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if any(self._one_shot):
            yield from self._as_they_come()
            return
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.passes):
            order = torch.randperm(len(self._images[0]), generator=generator)
            for rows in order.tensor_split(self._in_pass):
                yield tuple(images[rows] for images in self._images)

    def _as_they_come(self) -> Iterator[tuple[Tensor, ...]]:
        size = self.batch_size
        wanted = None if size is None else size + SMALLEST  # so that a rest of one batch is never too small
        while True:
            for coming in self._coming:
                coming.gather(wanted)
            counts = [len(coming.held) for coming in self._coming]
            is_last = wanted is None or min(counts) < wanted
            if is_last and len(set(counts)) > 1:
                raise ValueError("the two models need matching rows, and one source has more images.")
            if is_last and counts[0] < SMALLEST:
                raise ValueError(f"CKA needs at least {SMALLEST} images, got {counts[0]}.")
            if is_last:
                yield tuple(coming.take(counts[0]) for coming in self._coming)
                return
            yield tuple(coming.take(size) for coming in self._coming)


class _Coming:
    """Images of a source that is gone through once, of which some are held."""

    def __init__(self, batches: Iterator[Tensor]):
        self._batches = batches
        self.held = next(batches)

    def gather(self, wanted: int | None) -> None:
        """Hold at least so many images (None: all), as long as there are any."""
        parts = [self.held]
        while wanted is None or sum(map(len, parts)) < wanted:
            batch = next(self._batches, None)
            if batch is None:
                break
            parts.append(batch)
        self.held = torch.cat(parts)

    def take(self, count: int | None) -> Tensor:
        """The first of the held images (None: all), which are held no longer."""
        count = len(self.held) if count is None else count
        taken, self.held = self.held[:count], self.held[count:]
        return taken


def _gram_stack(
    graph: LayerGraph,
    layers: list[str],
    images: Tensor,
    estimator: Estimator,
    pool: bool,
    device: torch.device,
) -> Float[Tensor, "layers pairs"]:
    """One recentred Gram matrix per layer, each laid flat, in float64."""
    n = len(images)
    stack = torch.empty(len(layers), n * n, dtype=torch.float64, device=device)
    axes = {name: graph.channel_axis(name) if pool else None for name in layers}
    rows = dict(zip(layers, stack, strict=True))

    def reduce(name: str, value: Tensor) -> None:
        rows_of_layer = as_rows(value, axes[name])
        # products of half precision would round once more
        gram = centered_gram(rows_of_layer.to(torch.promote_types(value.dtype, torch.float32)))
        if not gram.isfinite().all():
            raise ValueError(
                f"layer {name!r} has activations that are not finite (NaN or infinite, or too large to "
                "square): the weights or the inputs are damaged."
            )
        recenter_(rows[name].view(n, n).copy_(gram), estimator)

    graph.run(images, reduce, layers)
    return stack


def _warn_of_constant(own: Tensor, layers: list[str], name: str) -> None:
    constant = [layer for layer, value in zip(layers, own.tolist(), strict=True) if value <= 0]
    if constant:
        warnings.warn(
            f"{len(constant)} layers of model {name!r} give every image the same output, so that their "
            f"CKA is undefined (NaN): {', '.join(constant[:5])}",
            stacklevel=3,
        )


def _positive(own: Tensor) -> Tensor:
    """A layer's HSIC with itself; NaN where the layer does not vary."""
    return torch.where(own > 0, own, torch.nan)
