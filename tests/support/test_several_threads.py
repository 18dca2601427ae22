"""What takes long, each kind in a process of its own that has two threads or three: none ends the process.

Torch may write beyond its memory with several threads where it does not with one (see
`repsim.support.devices.training_format`), and most tests run with one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repsim.activations import as_rows, capture
from repsim.attacks import Attack, run_attack
from repsim.data import load_data
from repsim.studies.cka_maps.layer_maps import layer_cka
from repsim.studies.comparison import compare_models
from repsim.studies.inversion import invert
from repsim.studies.probing import ProbeOptions, fit_probe
from repsim.studies.stitching import StitchOptions, stitch
from repsim.support import devices
from repsim.training import Recipe, accuracy, train, zoo
from repsim.training.model_store import find

THREADS = (2, 3)
COUNT = 128 + 17  # the last batch is smaller than the others
RESIDUAL = ("resnet_tiny", "resnet_tiny_deep", "wrn_tiny")
LAYER = "layer2.0.relu2"


def data():
    return load_data("digits", train_size=COUNT, test_size=60)


def committed(seed=0):
    """A committed network; its weights are channels last, as a caller's may be."""
    (recipe,) = zoo.recipes(load_data("digits"), ["resnet_tiny"], [0.0], [seed])
    found = find(recipe, "cpu")
    found.network.to(memory_format=torch.channels_last)
    return found


def training(method, architecture, **options):
    epsilon = 0.0 if method == "standard" else 0.1
    recipe = Recipe.on(data(), architecture, method=method, epsilon=epsilon, **options)
    network, curve = train(recipe, data(), progress=False)
    assert all(weight.isfinite().all() for weight in network.parameters())
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


def attacking():
    network, images, labels = committed().network, data().test.images, data().test.labels
    found = run_attack(network, images.to(memory_format=torch.channels_last), labels, Attack(0.1, steps=10))
    assert (found - images).abs().max() <= 0.1 + 1e-6
    assert accuracy(network, found, labels) < accuracy(network, images, labels) - 0.2


def inverting():
    images = data().test.images
    found = invert(committed().network, images[:9], images[9:18], iterations=40, progress=False)
    assert found.curve["loss"].iloc[-1] < 0.5 * found.curve["loss"].iloc[0]


def stitching(**options):
    front, end = committed().network, committed(1).network
    options = StitchOptions(epochs=4, learning_rate=0.03, **options)
    train_on = data().train.images.to(memory_format=torch.channels_last), data().train.labels
    _, curve = stitch(front, end, LAYER, LAYER, *train_on, options, progress=False)
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]


def probing():
    images, labels = data().train.images, data().train.labels
    features = as_rows(capture(committed().network, images, LAYER)[LAYER], channel_axis=0)
    for options in (ProbeOptions(), ProbeOptions("logistic"), ProbeOptions("adam", epochs=100)):
        assert fit_probe(features, labels, 10, options).accuracy(features, labels) > 0.3


def mapping():
    network = committed().network
    table = layer_cka(network, network, data().test.images, progress=False)
    own = table[table["layer_a"] == table["layer_b"]]["value"]
    assert len(own) > 10
    assert (own - 1).abs().max() < 1e-5


def comparing():
    table = compare_models([committed(), committed(1)], data(), ["cka", "procrustes"], progress=False)
    assert table["value"].notna().all()


BRIEF = {"epochs": 3, "batch_size": 17, "precision": "bfloat16"}
STEPS = {
    **{
        f"{method} {architecture}": (training, (method, architecture), options)
        for method, options in {
            "standard": {"epochs": 8},
            "pgd": {"epochs": 3, "batch_size": 17, "attack_steps": 2},
            "trades": {"epochs": 3, "batch_size": 17, "attack_steps": 2},
        }.items()
        for architecture in RESIDUAL
    },
    **{
        f"{kind} {architecture}": (training, ("pgd", architecture), {**BRIEF, **options})
        for kind, options in {
            "bfloat16": {"attack_steps": 2},
            "fgsm": {"training_attack": "fgsm"},
            "free": {"training_attack": "free", "attack_steps": 2},
        }.items()
        for architecture in RESIDUAL
    },
    "bfloat16 stitch of resnet_tiny": (stitching, (), {"precision": "bfloat16"}),
    "bfloat16 stitch of resnet_tiny with PGD": (
        stitching,
        (),
        {"method": "pgd", "epsilon": 0.1, "attack_steps": 2, "precision": "bfloat16"},
    ),
    "attack": (attacking, (), {}),
    "invert": (inverting, (), {}),
    "stitch": (stitching, (), {}),
    "stitch with PGD": (stitching, (), {"method": "pgd", "epsilon": 0.1, "attack_steps": 2}),
    "stitch with BatchNorm": (stitching, (), {"update_batchnorm": True}),
    "fit_probe": (probing, (), {}),
    "layer_cka": (mapping, (), {}),
    "compare_models": (comparing, (), {}),
}


@pytest.mark.matrix
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(
    "kind", ["standard resnet_tiny", "standard", "pgd", "trades", "bfloat16", "fgsm", "free", "other"]
)
def test_several_threads_end_no_process(kind, threads):
    """The last line is of what was begun last."""
    if kind in ("bfloat16", "fgsm", "free") and not devices._multiplies_bfloat16(torch.device("cpu")):
        pytest.skip("this processor does not multiply bfloat16")
    if kind in STEPS:
        chosen = [kind]
    else:
        chosen = [
            step for step in STEPS if step.split()[0] == kind or (kind == "other" and "tiny" not in step)
        ]
    root = Path(__file__).parents[2]
    # threads that wait are to leave the processors to other tests
    waiting = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    environment = {**os.environ, "PYTHONPATH": str(root), **waiting}
    done = subprocess.run(
        [sys.executable, __file__, *chosen],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "all done"


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # also more than there are processors
    for step in sys.argv[1:]:
        print(step, flush=True)
        function, arguments, options = STEPS[step]
        function(*arguments, **options)
    print("all done")
