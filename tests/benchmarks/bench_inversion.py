"""How fast images are inverted, against the published loop run by `robustness.attacker`, whose code it needs.

Both make the same updates of the same images: N updates, N + 1 evaluations of the distance. What is compared
is the time to get there, and the mean distance that each reaches, as float32 networks measure it, is shown
beside it. The published loop computes in float32, and runs at its own batch size, and at ours; ours runs in
float32 and, where the device has it, in bfloat16. On an accelerator, with everything that helps there:

    python tests/benchmarks/bench_inversion.py --device cuda --compile
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from measuring import THREADS, Row, show

from repsim.data import load_data
from repsim.models import build_model
from repsim.studies.inversion import FeatureExtractor, Pairs, invert
from repsim.support.compat import import_robustness
from repsim.support.devices import check_precision
from repsim.training import zoo
from repsim.training.model_store import obtain_all

REPEATS = 2
PUBLISHED_BATCH = 32
TARGETS = {
    ("digits", "float32"): 1.9,
    ("digits", "bfloat16"): 1.9,
    ("resnet18", "float32"): 1.6,
    ("resnet18", "bfloat16"): 2.5,
}


class MomentumStep(import_robustness("attack_steps").AttackerStep):
    """The published step: the moving average of normalised gradients, in a ball that is never left."""

    def __init__(self, orig_input: Tensor, eps: float, step_size: float):
        super().__init__(orig_input, eps, step_size)
        self.velocity = torch.zeros_like(orig_input)

    def project(self, x: Tensor) -> Tensor:
        return (self.orig_input + (x - self.orig_input).renorm(2, 0, self.eps)).clamp(0, 1)

    def step(self, x: Tensor, g: Tensor) -> Tensor:
        direction = g / g.norm(p=2, dim=(1, 2, 3), keepdim=True)
        self.velocity = 0.9 * self.velocity + 0.1 * direction
        return x + self.step_size * self.velocity


class WithLatent(nn.Module):
    """A network of ours as `robustness` wants its own: asked for it, it gives the representation too."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda module, inputs: setattr(self, "latent", inputs[0]))

    def forward(self, images: Tensor, with_latent: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        logits = self.network(images)
        return (logits, self.latent) if with_latent else logits


def distance(model: nn.Module, images: Tensor, wanted: Tensor) -> tuple[Tensor, None]:
    """The published loss: relative distance of each image's representation."""
    _, latent = model(images, with_latent=True)
    return (latent - wanted).norm(dim=1) / wanted.norm(dim=1), None


def published(model: WithLatent, seeds: Tensor, targets: Tensor, iterations: int, batch_size: int) -> Tensor:
    """The published loop: `robustness`' Attacker, batch by batch. Our networks normalise inside."""
    neutral = type("Neutral", (), {"mean": torch.zeros(3), "std": torch.ones(3)})
    attacker = import_robustness("attacker").Attacker(model, neutral)
    settings = {
        "constraint": MomentumStep,
        "eps": 1000,
        "step_size": 1 / 8,
        "iterations": iterations,
        "targeted": True,
        "custom_loss": distance,
        "should_normalize": False,
        "use_best": True,
    }
    parts = []
    for seed, target in zip(seeds.split(batch_size), targets.split(batch_size), strict=True):
        with torch.no_grad():
            _, wanted = model(target, with_latent=True)
        parts.append(attacker(seed, wanted, **settings).detach())
    return torch.cat(parts)


def measured(
    ways: dict[str, Callable[[], Tensor]], reached: Callable[[Tensor], float], device: torch.device
) -> dict[str, tuple[float, float]]:
    """Least seconds of each way, and the mean distance: in turn, so that a busy spell slows all alike."""
    best: dict[str, tuple[float, float]] = {}
    for _ in range(REPEATS):
        for name, run in ways.items():
            start = time.perf_counter()
            images = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            best[name] = min(best.get(name, (seconds, reached(images))), (seconds, reached(images)))
    return best


def rows_of(
    name: str, models: list[nn.Module], seeds: Tensor, targets: Tensor, iterations: int, batch: int
) -> list[Row]:
    """Of one kind of networks: seconds summed over them, and their mean distance."""
    theirs = {f"published loop, batches of {size}": size for size in (PUBLISHED_BATCH, batch)}
    own = {precision: f"ours in {precision}" for precision in precisions}
    leaving = {precision: f"{kind}, converged images leave" for precision, kind in own.items()}
    seconds, distances = Counter(), Counter()
    for model in models:
        wrapped = WithLatent(model)
        options = {"iterations": iterations, "batch_size": batch, "progress": False}
        # compiling is a matter of once, tracing and folding are part of each run
        compiled = (
            FeatureExtractor(model, "penultimate", seeds.shape[1:], compiled=True) if chosen.compile else None
        )
        if compiled is not None:
            for precision in precisions:
                invert(compiled, seeds, targets, precision=precision, **{**options, "iterations": 20})

        def ours(precision, tolerance, model=model, compiled=compiled, options=options):
            found = invert(
                compiled or model, seeds, targets, precision=precision, tolerance=tolerance, **options
            )
            return found.images

        def reached(images, wrapped=wrapped):
            with torch.no_grad():
                _, wanted = wrapped(targets, with_latent=True)
                return distance(wrapped, images, wanted)[0].mean().item()

        ways = {}
        for kind, size in theirs.items():
            ways[kind] = functools.partial(published, wrapped, seeds, targets, iterations, size)
        for precision in precisions:
            ways[own[precision]] = functools.partial(ours, precision, 0.0)
            ways[leaving[precision]] = functools.partial(ours, precision, 0.01)
        for kind, (time_taken, mean) in measured(ways, reached, seeds.device).items():
            seconds[kind] += time_taken
            distances[kind] += mean / len(models)
    fastest = min(theirs, key=lambda kind: seconds[kind])
    rows = [
        Row(f"{name}: {kind}", f"{seconds[kind]:.1f} s, distance {distances[kind]:.4f}") for kind in seconds
    ]
    for precision in precisions:
        one = own[precision]
        rows += [
            Row(
                f"{name}: published loop (the faster, in float32) ÷ {one}",
                "",
                seconds[fastest] / seconds[one],
                at_least=TARGETS[name, precision],
            ),
            Row(
                f"{name}: … where converged images leave", "", seconds[fastest] / seconds[leaving[precision]]
            ),
            Row(
                f"{name}: distance, {one} ÷ published", "", distances[one] / distances[fastest], at_most=1.02
            ),
        ]
    return rows


parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu")
parser.add_argument("--compile", action="store_true")
chosen = parser.parse_args()
torch.set_num_threads(THREADS)
device = torch.device(chosen.device)
if device.type == "cpu":
    Tensor.cuda = lambda self, *_, **__: self  # the published loop asks for it
precisions = ["float32"]
try:
    check_precision("bfloat16", device)
    precisions.append("bfloat16")
except ValueError as error:
    print(f"only float32: {error}\n")

data = load_data("digits")
pairs = Pairs.draw(data, 200)
recipes = zoo.recipes(data, ["resnet_tiny", "vgg_tiny"], [0.0, 0.1], [0])
models = [model.network.to(device) for model in obtain_all(recipes, data, device="cpu")]
seeds, targets = (images.to(device) for images in (pairs.seeds(data.test), pairs.targets(data.test)))
rows = rows_of("digits", models, seeds, targets, 200, 100)

large = build_model("resnet18", (3, 32, 32), 10, [0.5] * 3, [0.25] * 3).eval().to(device)
images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
rows += rows_of("resnet18", [large], images[:32], images[32:], 20, 32)
show(
    "Inverting images: the same updates, to the same distance",
    rows,
    [
        "digits: 200 pairs through resnet_tiny and vgg_tiny, standard and robust (ε = 0.1), 200 updates.",
        "resnet18: 32 pairs of 3 × 32 × 32 through an untrained ResNet-18 with the CIFAR stem, 20 updates.",
        "The published loop computes in float32; every distance is measured by the network in float32.",
    ],
)
