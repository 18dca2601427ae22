"""How fast maps between two networks are found: beside the published procedure, and an earlier commit.

The published procedure runs the whole front and then the whole end at each step, with a hook that reads the
front's layer and one that replaces the end's. Both fit the same maps at the outputs of all blocks, from the
same beginning, on the same batches; what is compared is the total time of the sweep, and the accuracies are
shown beside it.

The earlier commit is of before the package was arranged as it is now. Both versions fit the same maps, from
the same beginning and on the same batches, and measure them under PGD-20. They do so in processes of one
thread each, as sweeps of several jobs run, in turn; what is compared is the processor's time. The sweep in
bfloat16 stands beside it: its maps are measured in float32 as the others.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from bench_against import BEFORE, at_commit
from measuring import THREADS, Row, show

from repsim.activations import trace
from repsim.attacks import perturb
from repsim.data import load_data
from repsim.studies.stitching import StitchOptions, make_transform, stitch
from repsim.support.devices import seeded
from repsim.training import accuracy, model_store, zoo

ARCHITECTURE = "resnet_tiny_deep"  # 20 layers, 9 blocks
LEVEL = 0.1
REPEATS = 2
SETTINGS = {"initial": "pseudo_inverse", "learning_rate": 0.03, "schedule": "constant"}
KINDS = {
    "adversarial": StitchOptions(method="pgd", epsilon=LEVEL, attack_steps=5, epochs=1, **SETTINGS),
    "standard": StitchOptions(epochs=30, **SETTINGS),  # as many as published
}
TARGETS = {"adversarial": 1.35, "standard": 2.5}

ROUNDS = 2
SWEEPS = [  # images fill their batches: the earlier version would have a smaller one besides
    {
        "architecture": ARCHITECTURE,
        "images": 1_280,
        "layers": 3,
        "epochs": {"standard": 30, "adversarial": 1},
    },
    {"architecture": "resnet20_w1", "images": 256, "layers": 3, "epochs": {"standard": 4, "adversarial": 1}},
]
# Both versions run this. It reads a sweep, then line by line a precision, or "" where there is no choice.
CHILD = """
import json, sys, time, warnings
import torch
torch.set_num_threads(1)
warnings.simplefilter("ignore")
from repsim.attacks import Attack
from repsim.data import Split, load_data
from repsim.models import build_model
try:
    from repsim.activations import trace
    from repsim.studies.stitching import StitchOptions, stitch
    from repsim.studies.stitching.measuring import Donor, measure_stitch
    from repsim.training import model_store, zoo
except ModuleNotFoundError:
    from repsim import store as model_store, zoo
    from repsim.graphs import trace
    from repsim.stitching import StitchOptions, fit_stitch as stitch
    from repsim.stitching.measuring import Donor, measure_stitch
sweep = json.loads(sys.stdin.readline())
architecture, count, level = sweep["architecture"], sweep["images"], sweep["level"]
if architecture.startswith("resnet_tiny"):
    data = load_data("digits")
    recipes = zoo.recipes(data, [architecture], [0.0, level], range(1))
    networks = [model_store.find(recipe, "cpu").network for recipe in recipes]
    train, test = Split(data.train.images[:count], data.train.labels[:count]), data.test.subset(250)
else:  # untrained, on images of noise: they take as long
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(count, 3, 32, 32, generator=generator), torch.arange(count) % 10
    norm = [0.5] * 3, [0.25] * 3
    networks = [build_model(architecture, (3, 32, 32), 10, *norm, seed=seed) for seed in (0, 1)]
    train, test = Split(images, labels), Split(images[:32], labels[:32])
front, end = (trace(network.eval(), train.images.shape[1:]) for network in networks)
donors = [Donor(graph, test, Attack(level, steps=20)) for graph in (front, end)]
for donor in donors:
    donor.robust_accuracy  # what is kept of donors is made beforehand
layers = front.select("blocks")
layers = layers[:: len(layers) // sweep["layers"]]
print("ready", flush=True)
for line in sys.stdin:
    seconds, losses, accuracies, robust = {}, [], [], []
    for kind, options in sweep["kinds"].items():
        options = StitchOptions(**options, **({"precision": line.strip()} if line.strip() else {}))
        for layer in layers:
            start = time.process_time()
            given = front, end, layer, layer, train.images, train.labels, options
            found, curve = stitch(*given, progress=False)
            fitted = time.process_time()
            row = measure_stitch(found, *donors, layer, layer)
            ended = time.process_time()
            for part, spent in ((kind, fitted - start), ("measuring", ended - fitted)):
                seconds[part] = seconds.get(part, 0) + spent
            losses.append(curve["loss"].iloc[-1])
            accuracies.append(row["accuracy"])
            robust.append(row["robust_accuracy"])
    means = [sum(values) / len(values) for values in (losses, accuracies, robust)]
    print(json.dumps([seconds, means]), flush=True)
"""


class Published(nn.Module):
    """The whole front, then the whole end, whose layer gives what the transform makes of the front's."""

    def __init__(self, front, end, layer, transform):
        super().__init__()
        self.front, self.end, self.transform = front, end, transform
        front.get_submodule(layer).register_forward_hook(self._read)
        end.get_submodule(layer).register_forward_hook(self._replace)

    def _read(self, module, inputs, output):
        self.taken = output

    def _replace(self, module, inputs, output):
        return self.given

    def forward(self, images):
        self.front(images)
        self.given = self.transform(self.taken)
        return self.end(images)


def published_fit(network, data, options):
    """The published training loop: Adam, batch by batch, with PGD on the stitched network."""
    optimizer = torch.optim.Adam(
        network.transform.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    images, labels = data.train.images, data.train.labels
    for epoch in range(options.epochs):
        with seeded(options.seed * 100_003 + epoch, images.device):
            for batch in torch.randperm(len(labels)).split(options.batch_size):
                x, y = images[batch], labels[batch]
                if options.attack is not None:
                    x = perturb(
                        lambda p, y=y: F.cross_entropy(network(p), y, reduction="sum"), x, options.attack
                    )
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(network(x), y).backward()
                optimizer.step()


def timed(fit, layers, data):
    """Seconds for all layers together, and the mean test accuracy."""
    seconds, accuracies = 0.0, []
    for layer in layers:
        start = time.perf_counter()
        network = fit(layer)
        seconds += time.perf_counter() - start
        accuracies.append(accuracy(network, data.test.images, data.test.labels))
    return seconds, sum(accuracies) / len(accuracies)


def beside_published() -> None:
    """Show the sweep beside the published procedure, all in this process."""
    data = load_data("digits")
    recipes = zoo.recipes(data, [ARCHITECTURE], [0.0, LEVEL], range(1))
    models = [model_store.obtain(recipe, data, device="cpu") for recipe in recipes]
    front, end = (trace(model.network, data.image_shape) for model in models)
    layers = front.select("blocks")

    def ours(layer, options):
        stitched, _ = stitch(
            front, end, layer, layer, data.train.images, data.train.labels, options, progress=False
        )
        return stitched

    def published(layer, options):
        donors = [copy.deepcopy(graph.network).requires_grad_(False) for graph in (front, end)]
        start = make_transform(
            front, end, layer, layer, initial=options.initial, seed=options.seed, images=data.train.images
        )
        network = Published(*donors, layer, start).eval()
        published_fit(network, data, options)
        return network

    rows = []
    for kind, options in KINDS.items():
        best = {}
        for _ in range(REPEATS):  # in turn, so that a busy spell slows both alike
            for name, fit in {"ours": ours, "published": published}.items():
                seconds, right = timed(
                    lambda layer, fit=fit, options=options: fit(layer, options), layers, data
                )
                best[name] = min(best.get(name, (seconds, right)), (seconds, right))
        (own, own_accuracy), (theirs, their_accuracy) = best["ours"], best["published"]
        rows += [
            Row(f"{kind} training, {len(layers)} layers", f"{own:.2f} s, accuracy {own_accuracy:.3f}"),
            Row(
                "published procedure ÷ it",
                f"{theirs:.2f} s, accuracy {their_accuracy:.3f}",
                theirs / own,
                at_least=TARGETS[kind],
            ),
        ]
    show(
        f"Finding maps between two {ARCHITECTURE} on digits, at the outputs of all blocks",
        rows,
        ["Total times of the sweep, all that is made beforehand included; accuracy is the mean over layers."],
    )


def beside_earlier_commit() -> None:
    """Show the sweep beside that of an earlier commit, each in a process of its own."""
    root = Path(__file__).parents[2]
    for sweep in SWEEPS:
        kinds = {
            kind: {
                **SETTINGS,
                "epochs": epochs,
                **({"method": "pgd", "epsilon": LEVEL, "attack_steps": 5} if kind == "adversarial" else {}),
            }
            for kind, epochs in sweep["epochs"].items()
        }
        with tempfile.TemporaryDirectory() as folder:
            places = {"before": at_commit(BEFORE, Path(folder)), "now": root}
            children = {name: _child(place, root) for name, place in places.items()}
            for child in children.values():
                _ask(child, json.dumps({**sweep, "kinds": kinds, "level": LEVEL}))
            ways = {"before": ("before", ""), "float32": ("now", "float32"), "bfloat16": ("now", "bfloat16")}
            found = {way: [] for way in ways}
            for _ in range(ROUNDS):  # in turn, so that a busy spell slows all alike
                for way, (name, precision) in ways.items():
                    found[way].append(json.loads(_ask(children[name], precision)))
            for child in children.values():
                child.communicate()
        _show_sweep(sweep, found)


def _child(place: Path, root: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=place,  # from where, before all else, it imports the package
        env={**os.environ, "PYTHONPATH": str(place), "REPSIM_HOME": str(root), "OMP_NUM_THREADS": "1"},
    )


def _ask(child: subprocess.Popen, line: str) -> str:
    child.stdin.write(line + "\n")
    child.stdin.flush()
    return child.stdout.readline()


def _show_sweep(sweep: dict, found: dict[str, list]) -> None:
    parts = list(found["before"][0][0])
    least = {
        way: {part: min(seconds[part] for seconds, _ in rounds) for part in parts}
        for way, rounds in found.items()
    }
    total = {way: sum(seconds.values()) for way, seconds in least.items()}
    rows = []
    for way in ("float32", "bfloat16"):
        target = 1.5 if way == "float32" else None
        rows.append(
            Row(f"sweep in {way}", f"{total[way]:.1f} s", total["before"] / total[way], at_least=target)
        )
        for part in parts:
            amount = f"{least[way][part]:.1f} s"
            rows.append(Row(f"… {part}", amount, least["before"][part] / least[way][part]))
    for way, rounds in found.items():
        loss, accuracy_of, robust = rounds[0][1]
        amount = f"{loss:.4f}, {accuracy_of:.3f}, {robust:.3f}"
        rows.append(Row(f"loss, accuracy, robust accuracy {'' if way == 'before' else 'in '}{way}", amount))
    show(
        f"A sweep of maps between two {sweep['architecture']}, beside an earlier commit",
        rows,
        [
            f"Ratios of time: commit {BEFORE} ÷ now, of one thread each; the least of {ROUNDS} runs in turn.",
            f"The same maps at {sweep['layers']} layers, on {sweep['images']} images, by standard and by",
            "adversarial training, and what is measured of them under PGD-20.",
        ],
    )


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    beside_published()
    beside_earlier_commit()
