"""How fast linear probes are trained, against the published epoch loop: Adam, ten epochs, features in memory.

The published loop takes inputs one by one out of a data set and stacks them to batches, as data loaders do. A
loop that takes whole batches out of a tensor (our `adam`) is timed too. What the probes are worth is shown
beside the time: their accuracy on held-out images, and the objective that they reach on those that they were
fitted to, mean cross-entropy with the penalty of our `logistic` (that of `ridge` is another one).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent))

from measuring import THREADS, Row, show

from repsim.activations import Observer, trace
from repsim.data import load_data
from repsim.studies.probing import Probe, ProbeOptions, fit_probe
from repsim.training import zoo
from repsim.training.model_store import obtain_all

REPEATS = 3
NETWORKS = 10
SMALL_TARGETS = {"ridge": 20, "logistic": 5}
WIDE_TARGETS = {"ridge": 6, "logistic": 6}
CLASSES = 10
PUBLISHED = "published loop"


class Representations(Dataset):
    """Features and their labels, one input at a time."""

    def __init__(self, features: Tensor, labels: Tensor):
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.labels[index]


def published(features: Tensor, labels: Tensor) -> Probe:
    """The published settings: Adam from 5e-3, a cosine to 1e-6, batches of 1,024, ten epochs."""
    torch.manual_seed(0)
    probe = nn.Linear(features.shape[1], CLASSES)
    optimizer = torch.optim.Adam(probe.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-6)
    loader = DataLoader(Representations(features, labels), batch_size=1024, shuffle=True)
    for _ in range(10):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(probe(x), y).backward()
            optimizer.step()
        schedule.step()
    return Probe(probe.weight.detach(), probe.bias.detach(), None)


@dataclass(frozen=True)
class Result:
    """Least seconds for all sets of features; mean held-out accuracy and mean objective of their probes."""

    seconds: float
    accuracy: float
    objective: float


def objective(probe: Probe, features: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy and the penalty of `logistic`, in float64."""
    x, weight = features.double(), probe.weight.double()
    penalty = ProbeOptions("logistic").penalty * float(x.var(0, correction=0).mean())
    loss = F.cross_entropy(F.linear(x, weight, probe.bias.double()), labels)
    return float(loss + penalty / 2 * weight.square().sum())


def measured(sets: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> dict[str, Result]:
    """What each way takes and reaches; they are timed in turn."""

    def ours(kind: str) -> Callable[[Tensor, Tensor], Probe]:
        return lambda features, labels: fit_probe(features, labels, CLASSES, ProbeOptions(kind))

    ways = {PUBLISHED: published, **{kind: ours(kind) for kind in ("adam", "ridge", "logistic")}}
    found: dict[str, Result] = {}
    for _ in range(REPEATS):
        for name, train in ways.items():
            start = time.perf_counter()
            probes = [train(features, labels) for features, labels, _, _ in sets]
            seconds = time.perf_counter() - start
            both = list(zip(probes, sets, strict=True))
            right = [probe.accuracy(held_out, answers) for probe, (_, _, held_out, answers) in both]
            reached = [objective(probe, seen, labels) for probe, (seen, labels, _, _) in both]
            least = min(found[name].seconds, seconds) if name in found else seconds
            found[name] = Result(least, sum(right) / len(right), sum(reached) / len(reached))
    return found


def rows_of(name: str, found: dict[str, Result], targets: dict[str, float]) -> list[Row]:
    rows = []
    for way, one in found.items():
        reached = "" if way == "ridge" else f", objective {one.objective:.6f}"
        rows.append(Row(f"{name}: {way}", f"{one.seconds:.3f} s, accuracy {one.accuracy:.4f}{reached}"))
    loop = found[PUBLISHED]
    for kind in ("ridge", "logistic"):
        own = found[kind]
        rows += [
            Row(f"{name}: published loop ÷ {kind}", "", loop.seconds / own.seconds, at_least=targets[kind]),
            Row(f"{name}: … whole-batch loop ÷ {kind}", "", found["adam"].seconds / own.seconds),
            Row(f"{name}: accuracy, {kind} ÷ published", "", own.accuracy / loop.accuracy, at_least=1.0),
        ]
    reached = found["logistic"].objective / loop.objective
    return [*rows, Row(f"{name}: objective, logistic ÷ published", "", reached, at_most=1.0)]


torch.set_num_threads(THREADS)
data = load_data("shapes")
recipes = zoo.recipes(data, zoo.shared_architectures(["shapes"]), [0.0, 0.05], range(2))[:NETWORKS]
sets = []
for model in obtain_all(recipes, data, device="cpu", progress=False):
    graph = trace(model.network, data.image_shape)
    observer = Observer(graph, graph.select("penultimate"))
    seen, held_out = (next(iter(observer.observe(s.images).values.values())) for s in (data.train, data.test))
    sets.append((seen, data.train.labels, held_out, data.test.labels))
rows = rows_of("ten networks", measured(sets), SMALL_TARGETS)

generator = torch.Generator().manual_seed(0)
centres = 0.3 * torch.randn(CLASSES, 512, generator=generator)
labels = torch.randint(CLASSES, (22_000,), generator=generator)
features = (centres[labels] + torch.randn(22_000, 512, generator=generator)).relu()
wide = [(features[:20_000], labels[:20_000], features[20_000:], labels[20_000:])]
rows += rows_of("20,000 × 512", measured(wide), WIDE_TARGETS)
show(
    "Training linear probes, features in memory",
    rows,
    [
        f"ten networks: {NETWORKS} of shapes (three architectures, standard and ε = 0.05), 6,000 training "
        f"images × {sets[0][0].shape[1]} features, 4,000 held out.",
        "20,000 × 512: drawn features of ten classes, rectified; 2,000 held out.",
    ],
)
