"""The network that a file holds, where its keys leave it open: candidates are tried on labelled images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import scipy
import torch
from torch import Tensor, nn

from repsim.attacks import epsilon_text
from repsim.data import Dataset, Split
from repsim.models import build_model
from repsim.models.checkpoints import Checkpoint, read_checkpoint, sources
from repsim.models.checkpoints.containers import choose, places
from repsim.models.checkpoints.folders import read_path
from repsim.models.normalizations import BY_DATA, Normalization, find_normalization, known
from repsim.support.devices import resolve_device
from repsim.support.labels import is_multilabel, right_in_batch
from repsim.support.progress import progress_bar
from repsim.training.evaluation import predict

GLANCE = 40  # images on which most of what is wrong is seen to be, where a file is loaded
FEWEST = 200  # labelled images, on which all candidates are tried
MOST = 2000  # on which those that are still open are
LEVEL = 0.95  # of intervals
TOLERANCE = 0.02  # between the accuracy that a file records and what its network has here
SAME = 1e-5  # of the deviation of logits: what differs by less computes the same
ALIKE = 0.995  # share of images of one answer, above which a choice of normalisation hardly matters
SHOWN = 12  # rows of a table that is printed
OWN = "the file's own"


@dataclass(eq=False)
class Tried:
    """One candidate, or several that compute the same, and its answers so far.

    Attributes
    ----------
    weights
        Which of the file's; empty for those that are taken unless others are asked for.
    same
        Names of the others that compute the same.
    images
        How many it was tried on.
    right
        How many of them it classified rightly; of several attributes, in shares.
    logits
        Of them.
    answers
        The class of each image.
    off
        How far what its first BatchNorm is given is from the statistics of training that it keeps, in
        standard deviations; None where there is no BatchNorm.
    """

    architecture: str
    normalization: Normalization
    network: nn.Module
    weights: str = ""
    same: list[str] = field(default_factory=list)
    images: int = 0
    right: float = 0.0
    logits: Tensor | None = None
    answers: Tensor | None = None
    off: float | None = None

    @property
    def name(self) -> str:
        which = f", weights {self.weights}" if self.weights else ""
        return f"{self.architecture}, normalization {self.normalization.name}{which}"

    @property
    def accuracy(self) -> float:
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.images)

    def is_above(self, other: Tried) -> bool:
        """Whether its interval lies above another's."""
        return self.interval[0] > other.interval[1]

    def try_on(self, split: Split, device: str) -> Tried:
        """Classify these images."""
        mean, std = self.normalization.mean, self.normalization.std
        for buffer, values in ((self.network.normalize.mean, mean), (self.network.normalize.std, std)):
            buffer.copy_(buffer.new_tensor(values).view_as(buffer))
        network = self.network.to(resolve_device(device))
        with _Moments(network) as moments:
            logits = predict(network, split.images)
        self.off = moments.distance()
        self.images, self.right = len(split), right_in_batch(logits, split.labels).sum().item()
        self.logits, self.answers = logits, logits.argmax(1)
        return self

    def computes_as(self, other: Tried) -> bool:
        """Whether another has the same logits, but for rounding."""
        scale = self.logits.std() + other.logits.std()
        return bool((self.logits - other.logits).abs().max() <= SAME * scale)


class _Moments:
    """Mean and deviation per channel, inside the block, of what a network's first BatchNorm is given.

    Of two normalisations with nearly the same accuracy, one makes them what the BatchNorm keeps of training.
    """

    def __init__(self, network: nn.Module):
        norms = (each for each in network.modules() if isinstance(each, nn.BatchNorm2d))
        self.norm = next((each for each in norms if each.running_mean is not None), None)
        self.sums: list[Tensor] = []

    def __enter__(self) -> _Moments:
        self.hook = self.norm.register_forward_pre_hook(self._add) if self.norm is not None else None
        return self

    def __exit__(self, *error: object) -> None:
        if self.hook is not None:
            self.hook.remove()

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().double().transpose(0, 1).flatten(1)
        counts = torch.full_like(values[:, 0], values.shape[1])
        self.sums.append(torch.stack([counts, values.sum(1), values.square().sum(1)]))

    def distance(self) -> float | None:
        """The root of the mean squared differences of means, and of logarithms of deviations."""
        if not self.sums:
            return None
        count, first, second = torch.stack(self.sums).sum(0)
        mean = first / count
        variance = (second / count - mean.square()).clamp(min=0) + self.norm.eps
        kept = self.norm.running_var.double() + self.norm.eps
        shift = (mean - self.norm.running_mean.double()).square() / kept
        return float((shift + (variance / kept).log().square() / 4).mean().sqrt())


@dataclass(frozen=True)
class Identification:
    """The findings about a file.

    Attributes
    ----------
    table
        One row per candidate, best first: `architecture`, `normalization`, `weights` (as `load_model` takes
        them), `accuracy`, its 95 % interval `low` and `high`, `images` (on how many), `off` (how
        far what its first BatchNorm is given is from the statistics that it keeps, in standard deviations;
        None without BatchNorm), `same` (other candidates that compute the same).
    settled
        Whether one candidate is told from all others.
    verdict
        What follows, in sentences.
    python, yaml
        What to write to load the best.
    """

    table: pd.DataFrame
    settled: bool
    verdict: str
    python: str
    yaml: str

    def __str__(self) -> str:
        shown = self.table.copy()
        shown = shown.drop(columns=[name for name in ("weights", "same", "off") if not shown[name].any()])
        rows = shown.head(SHOWN).round(3).to_string(index=False)
        left = f"\n… and {len(shown) - SHOWN} more, less accurate" if len(shown) > SHOWN else ""
        return f"{rows}{left}\n\n{self.verdict}\n\n{self.python}\n{self.yaml}"


def wilson(right: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    z = float(scipy.stats.norm.ppf((1 + LEVEL) / 2))
    share, weight = right / count, z**2 / count
    reach = (weight * (share * (1 - share) + weight / 4)) ** 0.5
    return (share + weight / 2 - reach) / (1 + weight), (share + weight / 2 + reach) / (1 + weight)


def check_fits(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Refuse a data set that a checkpoint's network cannot classify.

    Raises
    ------
    ValueError
        It has another number of channels or of classes.
    """
    channels = checkpoint.image_shape[0]
    if channels != dataset.image_shape[0]:
        kinds = {1: "grey-scale images (1 channel)", 3: "colour images (3 channels)"}
        takes, has = (kinds.get(n, f"{n} channels") for n in (channels, dataset.image_shape[0]))
        raise ValueError(f"{checkpoint.source} takes {takes}, {dataset.title} has {has}.")
    if checkpoint.num_classes != len(dataset.classes):
        raise ValueError(
            f"{checkpoint.source} has {checkpoint.num_classes} classes, {dataset.title} has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes[:3])}, …)."
        )


def network_of(
    checkpoint: Checkpoint, architecture: str, normalization: Normalization, shape: tuple[int, int, int]
) -> nn.Module:
    """The network of a checkpoint's weights by an architecture that they fit, normalised inside."""
    mean, std = normalization.mean, normalization.std
    network = build_model(architecture, shape, checkpoint.num_classes, mean, std)
    state = network.state_dict()
    given = {key: value for key, value in checkpoint.weights.items() if not key.startswith("normalize.")}
    weights = {key: value.to(state[key].dtype).contiguous() for key, value in given.items()}
    # as they are in memory, so that several architectures share them
    network.load_state_dict({**state, **weights}, assign=True)
    return network


def try_architectures(
    checkpoint: Checkpoint, dataset: Dataset, normalization: Normalization, device: str, progress: bool
) -> list[Tried]:
    """Try the architectures that fit the weights, the one that was taken first, on a few labelled images.

    Those that are worse by their whole interval on fewer still are looked at no longer.
    """
    candidates = _candidates(checkpoint, [normalization], dataset)
    rows = _distinct(candidates, dataset.test.subset(GLANCE), device, progress)
    taken = rows[0].try_on(dataset.test.subset(FEWEST), device)
    for row in rows[1:]:
        if not taken.is_above(row):
            row.try_on(dataset.test.subset(FEWEST), device)
    return rows


def identify(
    source: str | Path,
    dataset: Dataset,
    *,
    architecture: str = "",
    normalization: object = None,
    weights: str = "",
    device: str = "auto",
    progress: bool = True,
) -> Identification:
    """Find out which architecture and normalisation a file's network has, by its accuracy on labelled images.

    All candidates are tried on 200 test images; those whose 95 % interval reaches the best's, or that would
    have the accuracy that the file records, on up to 2,000. One that is above all others by its whole
    interval is found; where several are left, the recorded accuracy may tell them apart. A file that holds a
    normalisation is believed, unless another is better by its whole interval.

    Parameters
    ----------
    source
        As `read_checkpoint` takes it.
    dataset
        What the network classifies.
    architecture, normalization
        Only this one; as `load_model` takes it.
    weights
        Only these, of a file that holds several.

    Raises
    ------
    ValueError
        As `read_checkpoint`; or the data set does not fit, or has fewer than 200 labelled test images.
    """
    wanted = {"architecture": architecture, "image_shape": dataset.image_shape}
    checkpoint = read_checkpoint(source, weights=weights, **wanted)
    check_fits(checkpoint, dataset)
    if len(dataset.test) < FEWEST:
        raise ValueError(
            f"{len(dataset.test)} labelled test images of {dataset.title} are too few to tell candidates "
            f"apart: give at least {FEWEST}."
        )
    candidates = _candidates(
        checkpoint, _normalizations(checkpoint, dataset, normalization), dataset, weights
    )
    for name in [] if weights else _others(source):
        with suppress(ValueError):  # a network for something else
            other = read_checkpoint(source, weights=name, **wanted)
            check_fits(other, dataset)
            scales = _normalizations(other, dataset, normalization)
            candidates += _candidates(other, scales, dataset, name)
    rows = _distinct(candidates, dataset.test.subset(FEWEST), device, progress)
    if not rows:
        raise ValueError(f"{source}: {checkpoint.architecture} takes no images of {dataset.image_shape}.")
    believed = [row for row in rows if row.normalization.name == OWN]
    if believed:  # others are of account only where they are better
        best = max(believed, key=lambda row: row.accuracy)
        rows = [row for row in rows if row in believed or row.is_above(best)]
    split = dataset.test.subset(MOST)
    # on more images the best may be less good, so that others are open again
    while longer := [row for row in _still_open(rows, checkpoint.accuracy) if row.images < len(split)]:
        for row in progress_bar(longer, "those still open", "candidate", progress):
            row.try_on(split, device)
    rows.sort(key=lambda row: -row.accuracy)
    settled, verdict = _verdict(rows, checkpoint, dataset)
    if believed and rows[0] not in believed:
        verdict += f" The normalisation that the file holds is worse: {best.name} has {best.accuracy:.3f}."
    chosen = rows[0] if settled else _by_statistics(rows)
    return Identification(_table(rows), settled, verdict, *_lines(chosen, checkpoint))


def _others(source: str | Path) -> list[str]:
    """The names of weights in a file beside those that are taken."""
    if sources.named(str(source)):
        return []
    path, _ = sources.located(str(source))
    content, *_ = read_path(path)
    taken, _ = choose(content, "", str(source))
    return [place.name for place in places(content) if place.name not in ("", taken.name)]


def _normalizations(checkpoint: Checkpoint, dataset: Dataset, given: object) -> list[Normalization]:
    channels = dataset.image_shape[0]
    own = Normalization(BY_DATA, dataset.mean, dataset.std)
    if given is not None:
        return [own if given == BY_DATA else find_normalization(given).of_channels(channels)]
    found = [own, *(find_normalization(name).of_channels(channels) for name in known(channels))]
    if checkpoint.mean is not None and checkpoint.std is not None:
        found.insert(0, Normalization(OWN, checkpoint.mean, checkpoint.std))
    return found


def _candidates(
    checkpoint: Checkpoint, scales: Sequence[Normalization], dataset: Dataset, weights: str = ""
) -> list[Tried]:
    """Each architecture by each normalisation; weights are loaded once for each architecture."""
    found = []
    for name in (checkpoint.architecture, *checkpoint.alternatives):
        try:
            network = network_of(checkpoint, name, scales[0], dataset.image_shape).eval()
        except ValueError:  # images that it does not take
            continue
        found += [Tried(name, each, network, weights) for each in scales]
    return found


def _distinct(candidates: Iterable[Tried], split: Split, device: str, progress: bool) -> list[Tried]:
    """Those that compute something else than all before them, tried on these images."""
    found: list[Tried] = []
    for candidate in progress_bar([*candidates], "candidates", "candidate", progress):
        try:
            candidate.try_on(split, device)
        except (ValueError, RuntimeError):  # images too small for its strides
            continue
        if same := next((row for row in found if row.computes_as(candidate)), None):
            same.same.append(candidate.name)
        else:
            found.append(candidate)
    return found


def _still_open(rows: Sequence[Tried], recorded: float | None) -> list[Tried]:
    best = max(rows, key=lambda row: row.accuracy)
    return [row for row in rows if not best.is_above(row) or _has(row, recorded)]


def _has(row: Tried, recorded: float | None) -> bool:
    low, high = row.interval
    return recorded is not None and low <= recorded <= high


def _verdict(rows: Sequence[Tried], checkpoint: Checkpoint, dataset: Dataset) -> tuple[bool, str]:
    best, *others = rows
    recorded = checkpoint.accuracy
    low, high = best.interval
    reached = f"{best.name}: accuracy {best.accuracy:.3f} ({low:.3f} to {high:.3f})"
    chance = 1 / len(dataset.classes)
    if not is_multilabel(dataset.test.labels) and (best.accuracy < 2 * chance or low <= chance):
        return False, (
            f"Nothing is found: the best candidate's accuracy is {best.accuracy:.3f}, chance is "
            f"{chance:.3f}. Are the classes in another order, were the images others or of another size, or "
            "is its architecture none of these?"
        )
    if recorded is not None and high < recorded - TOLERANCE:
        return False, (
            f"Not settled: best is {reached}, but the file records {recorded:.3f}. Were the images others, "
            "or is its architecture or normalisation none of these?"
        )
    tied = [row for row in others if not best.is_above(row)]
    note = ""
    if recorded is not None:
        agrees = "agrees with" if _has(best, recorded) else "differs from"
        note = f" It {agrees} the accuracy that the file records, {recorded:.3f}."
    if not tied:
        below = f", far above the next ({others[0].name}, {others[0].accuracy:.3f})" if others else ""
        return True, f"Found: {reached}{below}.{note}"
    alike = [row for row in (best, *tied) if _has(row, recorded)]
    if alike == [best]:
        return True, f"Found by the accuracy that the file records, {recorded:.3f}: {reached}."
    if len(alike) == 1:
        return False, (
            f"Not settled: best is {reached}, but {alike[0].name} ({alike[0].accuracy:.3f}) has the accuracy "
            f"that the file records, {recorded:.3f}."
        )
    return _tie(best, tied, dataset)


def _by_statistics(rows: Sequence[Tried]) -> Tried:
    """Choose, of those as accurate as the first, the one that BatchNorm's statistics fit best."""
    tied = [row for row in rows if not rows[0].is_above(row)]
    return min(tied, key=lambda row: row.off) if all(row.off is not None for row in tied) else rows[0]


def _tie(best: Tried, tied: Sequence[Tried], dataset: Dataset) -> tuple[bool, str]:
    """Say which are as good as the best; of one architecture they may be as good as one."""
    names = "; ".join(f"{row.name} ({row.accuracy:.3f})" for row in (best, *tied))
    agreement = min((row.answers == best.answers).float().mean().item() for row in tied)
    of_one = {row.architecture for row in tied} == {best.architecture}
    settled = f" The architecture is {best.architecture} in all of them." if of_one else ""
    if agreement >= ALIKE and of_one:
        return True, (
            f"Found but for what hardly matters: {names}.{settled} They give the same class to at least "
            f"{agreement:.1%} of the images; the training code would tell them apart."
        )
    more = f"more labelled images than {best.images}, " if best.images == len(dataset.test) else ""
    fitting = _by_statistics([best, *tied])
    if fitting.off is not None:
        settled += (
            f" The statistics of training that its first BatchNorm keeps fit {fitting.name} best: off by "
            f"{fitting.off:.2g} deviations."
        )
    return False, (
        f"A tie: {names}.{settled} It would be broken by {more}the accuracy that its authors report, or the "
        "training code."
    )


def _table(rows: Iterable[Tried]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "architecture": row.architecture,
            "normalization": row.normalization.name,
            "weights": row.weights,
            "accuracy": row.accuracy,
            "low": row.interval[0],
            "high": row.interval[1],
            "images": row.images,
            "off": row.off,
            "same": "; ".join(row.same),
        }
        for row in rows
    )


def _lines(best: Tried, checkpoint: Checkpoint) -> tuple[str, str]:
    """The lines to write next, in Python and as notebooks' parameter `checkpoints` has it."""
    given: dict[str, str] = {"architecture": best.architecture}
    if best.normalization.name != OWN:
        given["normalization"] = best.normalization.name
    if best.weights:
        given["weights"] = best.weights
    unknown = checkpoint.epsilon is None
    if not unknown:
        given["epsilon"] = epsilon_text(checkpoint.epsilon)
    named = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    named += ["epsilon=..."] if unknown else []
    python = f"load_model({json.dumps(checkpoint.source)}, dataset=data, {', '.join(named)})"
    pairs = [f"{name}: {json.dumps(value)}" for name, value in given.items()]
    pairs += ["epsilon: ..."] if unknown else []
    yaml = f"{{{json.dumps(checkpoint.source)}: {{{', '.join(pairs)}}}}}"
    hint = (
        "\n(epsilon: what it was trained at, such as 8/255; 0 if it is a standard network)" if unknown else ""
    )
    return python, f"in notebooks, -p checkpoints '{yaml}'{hint}"
