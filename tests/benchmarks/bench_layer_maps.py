"""The map of every layer with every layer: its time beside a plain sketch's, pytorch-cka's and torch-cka's.

The reference is the bare forward passes and, for each layer and batch, one full float32 product FFᵀ of its
features, made by a hook. pytorch-cka makes one such product too, which it does not centre: what comes of that
is shown beside its time. Memory is measured in fresh processes, at two numbers of images.
"""

from __future__ import annotations

import contextlib
import copy
import io
import subprocess
import sys
import warnings
from collections.abc import Callable

import torch
from measuring import THREADS, Row, best_times, show
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from repsim.activations import trace
from repsim.measures import MEASURES
from repsim.models import build_model
from repsim.studies.cka_maps.layer_maps import layer_cka

SHAPE = (3, 32, 32)
IMAGES, BATCH, REPEATS = 1024, 256, 5
MANY = 8192
DRAWS = 5
SUBSET = 8  # of the layers, for torch-cka, whose loops go over every pair of them


def model_and_layers() -> tuple[nn.Module, list[str]]:
    """WRN-28-1 and its convolutions, BatchNorms, ReLUs, pooling and linear layer."""
    model = build_model("wrn_28_1", SHAPE, 10, [0.5] * 3, [0.25] * 3).eval()
    layers = [layer.name for layer in trace(model, SHAPE).layers.values() if layer.operation != "add"]
    assert len(layers) == 79
    return model, layers


def make_images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def forward(model: nn.Module, images: Tensor) -> None:
    for batch in images.split(BATCH):
        model(batch)


def forward_with_products(model: nn.Module, images: Tensor, layers: list[str]) -> None:
    """The forward passes, and FFᵀ of each layer in each of them."""

    def multiply(module: nn.Module, inputs: object, output: Tensor) -> None:
        features = output.flatten(1)
        features @ features.T

    handles = [model.get_submodule(layer).register_forward_hook(multiply) for layer in layers]
    forward(model, images)
    for handle in handles:
        handle.remove()


def our_map(model: nn.Module, images: Tensor, layers: list[str]) -> None:
    layer_cka(model, model, images, layers_a=layers, layers_b=layers, batch_size=BATCH, progress=False)


def pytorch_cka_map(model: nn.Module, images: Tensor, layers: list[str]) -> None:
    """By pytorch-cka: of one model given twice, it makes one Gram matrix for each layer and batch."""
    from cka import compute_cka  # the import name of pytorch-cka; that of torch-cka is torch_cka

    loader = DataLoader(TensorDataset(images), batch_size=BATCH)
    compute_cka(model, model, loader, layers=layers, device="cpu", progress=False)


def cka_off_center() -> list[str]:
    """CKA of 256 × 64 float32 features of mean 5 and spread 0.1: with themselves, and beside float64."""
    from cka import cka_from_features

    def features() -> Tensor:
        return 5 + 0.1 * torch.randn(256, 64, generator=generator)

    generator = torch.Generator().manual_seed(0)
    pairs = [(features(), features()) for _ in range(DRAWS)]
    ours = MEASURES["cka_debiased"]

    def theirs(x: Tensor, y: Tensor) -> float:
        return cka_from_features(x, y).item()

    def line(
        name: str, measure: Callable[[Tensor, Tensor], float], pairs: list[tuple[Tensor, Tensor]]
    ) -> str:
        return f"  {name}: " + ", ".join(f"{measure(x, y):.3f}" for x, y in pairs)

    return [
        f"CKA of {DRAWS} float32 matrices, 256 × 64, mean 5 and spread 0.1, with themselves and others:",
        line("ours", ours, [(x, x) for x, _ in pairs]),
        line("pytorch-cka", theirs, [(x, x) for x, _ in pairs]),
        line("with others, ours in float64", ours, [(x.double(), y.double()) for x, y in pairs]),
        line("with others, ours", ours, pairs),
        line("with others, pytorch-cka", theirs, pairs),
    ]


def torch_cka_seconds(model: nn.Module, images: Tensor, layers: list[str]) -> float:
    """What torch-cka would need for all pairs of layers and all images, from a few layers and one batch."""
    from torch_cka import CKA

    few = [layers[int((i + 0.5) * len(layers) / SUBSET)] for i in range(SUBSET)]
    loader = DataLoader(TensorDataset(images[:BATCH]), batch_size=BATCH)
    twins = [copy.deepcopy(model) for _ in range(2)]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        cka = CKA(*twins, "a", "b", few, few)
        seconds = best_times(
            {
                "forward": lambda: [forward(twin, images[:BATCH]) for twin in twins],
                "compare": lambda: cka.compare(loader, loader),
            },
            REPEATS,
        )
    few_pairs = seconds["compare"] - seconds["forward"]
    all_pairs = few_pairs * (len(layers) / SUBSET) ** 2
    return (all_pairs + seconds["forward"]) * len(images) / BATCH


def print_peak(count: int) -> None:
    """In a process of its own: by how many MB the map raises its peak memory."""
    import resource

    model, layers = model_and_layers()
    images = make_images(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    our_map(model, images, layers)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print((after - before) / unit)


def peak_megabytes(count: int) -> float:
    command = [sys.executable, __file__, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    few, many = peak_megabytes(IMAGES), peak_megabytes(MANY)  # first: a child begins at its parent's peak
    model, layers = model_and_layers()
    images = make_images(IMAGES)
    seconds = best_times(
        {
            "forward": lambda: forward(model, images),
            "sketch": lambda: forward_with_products(model, images, layers),
            "ours": lambda: our_map(model, images, layers),
            "pytorch-cka": lambda: pytorch_cka_map(model, images, layers),
        },
        REPEATS,
    )
    ours, sketch, peer = seconds["ours"], seconds["sketch"], seconds["pytorch-cka"]
    theirs = torch_cka_seconds(model, images, layers)
    rows = [
        Row("forward passes alone", f"{seconds['forward']:.2f} s"),
        Row("forward passes and one FFᵀ per layer", f"{sketch:.2f} s"),
        Row("layer_cka ÷ that", f"{ours:.2f} s", ours / sketch, at_most=1.0),
        Row("layer_cka ÷ forward alone", f"{ours:.2f} s", ours / seconds["forward"]),
        Row("pytorch-cka ÷ layer_cka", f"{peer:.2f} s", peer / ours, at_least=1.0),
        Row("torch-cka ÷ layer_cka", f"{theirs:.0f} s", theirs / ours, at_least=60),
        Row(f"peak memory, {IMAGES:,} images", f"{few:.0f} MB"),
        Row(f"peak memory, {MANY:,} images ÷ that", f"{many:.0f} MB", many / few, at_most=1.2),
    ]
    notes = [
        f"Best of {REPEATS}, taken in turn.",
        f"torch-cka is extrapolated: one batch and {SUBSET} × {SUBSET} pairs of evenly spaced layers",
        f"are timed, then scaled to {IMAGES // BATCH} batches and {len(layers)} × {len(layers)} pairs.",
        "Memory is what the call adds to a process that holds model and images, in a process of its own.",
        *cka_off_center(),
    ]
    show(f"Linear CKA of {len(layers)} layers of WRN-28-1, {IMAGES:,} images, batch {BATCH}", rows, notes)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    if len(sys.argv) > 1:
        print_peak(int(sys.argv[1]))
    else:
        main()
