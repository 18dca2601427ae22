"""Nothing stays on the GPU when a call is over, and peaks are what they should be."""

import gc

import pytest
import torch

from repsim.activations import Observer, capture
from repsim.attacks import Attack, run_attack
from repsim.measures import compare, compare_many, interval
from repsim.studies.cka_maps.layer_maps import layer_cka
from repsim.studies.inversion import invert
from repsim.studies.probing import ProbeOptions, fit_probe
from repsim.studies.stitching import StitchOptions, stitch
from repsim.training import Recipe, predict, train

BLOCK = "layer2.0.relu2"


def held():
    """Bytes of tensors on the GPU."""
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def calls(committed, data, device):
    """By name, calls whose results are given up."""
    model, end = committed(), committed(epsilon=0.1)
    images, labels = data.test.images.to(device), data.test.labels.to(device)
    x = torch.randn(400, 30, generator=torch.Generator().manual_seed(0)).to(device)
    y = x + torch.randn(400, 30, generator=torch.Generator().manual_seed(1)).to(device)
    names = ["cka", "procrustes", "jaccard", "rsa", "pwcca", "distance_correlation", "imd"]
    stitching = StitchOptions(epochs=1, batch_size=50)
    return {
        "measures": lambda: compare(x, y, names),
        "many": lambda: compare_many({"x": x, "y": y}, names, progress=False),
        "interval": lambda: interval("cka", x, y, resamples=20, progress=False),
        "predict": lambda: predict(model.network, images),
        "capture": lambda: capture(model.graph, images, "all"),
        "observer": lambda: Observer(model.graph, [BLOCK]).observe(images),
        "map": lambda: layer_cka(model.graph, end.graph, images, progress=False),
        "attack": lambda: run_attack(model.network, images, labels, Attack(0.1, steps=3)),
        "train": lambda: train(Recipe.on(data, "mlp", epochs=1), data, device=device.type, progress=False),
        "stitch": lambda: stitch(
            model.graph, end.graph, BLOCK, BLOCK, images, labels, stitching, progress=False
        ),
        "invert": lambda: invert(model.graph, images[:20], images[20:40], iterations=5, progress=False),
        "probe": lambda: fit_probe(x, torch.arange(400) % 3, 3, ProbeOptions("logistic")),
    }


CALLS = [
    "measures",
    "many",
    "interval",
    "predict",
    "capture",
    "observer",
    "map",
    "attack",
    "train",
    "stitch",
    "invert",
    "probe",
]


@pytest.mark.parametrize("name", CALLS)
def test_nothing_stays_when_a_call_is_over(on_gpu, committed, tiny_data, name):
    call = calls(committed, tiny_data, on_gpu)[name]
    call()  # what libraries keep for their own use, and what networks keep of themselves, is made now
    before = held()
    for _ in range(2):
        call()
    assert held() <= before


def test_a_map_takes_the_memory_of_a_batch_not_of_the_inputs(on_gpu, committed, tiny_data):
    graph, images = committed().graph, tiny_data.train.images

    def peak(count):
        given = images.repeat(count, 1, 1, 1)  # on the CPU
        layer_cka(graph, graph, given, batch_size=50, progress=False)
        before = held()
        torch.cuda.reset_peak_memory_stats()
        layer_cka(graph, graph, given, batch_size=50, progress=False)
        return torch.cuda.max_memory_allocated() - before

    assert peak(8) <= 1.1 * peak(1)
