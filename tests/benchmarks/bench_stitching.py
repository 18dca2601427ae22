"""How fast the map between two networks is found, against the published procedure written plainly.

The published procedure runs the whole front and then the whole end at each step, with a hook that reads the
front's layer and one that replaces the end's. Both fit the same maps at the outputs of all blocks, from the
same beginning, on the same batches; what is compared is the total time of the sweep, and the accuracies are
shown beside it.
"""

import copy
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

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


def sweep(fit, layers):
    """Seconds for all layers together, and the mean test accuracy."""
    seconds, accuracies = 0.0, []
    for layer in layers:
        start = time.perf_counter()
        network = fit(layer)
        seconds += time.perf_counter() - start
        accuracies.append(accuracy(network, data.test.images, data.test.labels))
    return seconds, sum(accuracies) / len(accuracies)


torch.set_num_threads(THREADS)
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
            seconds, right = sweep(lambda layer, fit=fit, options=options: fit(layer, options), layers)
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
