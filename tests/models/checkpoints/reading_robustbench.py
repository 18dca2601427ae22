"""Build RobustBench's networks with random weights, save and read them, and print how many load right.

`python tests/models/checkpoints/reading_robustbench.py cifar10/Linf`, where RobustBench is on the path.
Networks of the same classes and shapes are saved once. Of what a file does not hold, normalisation and what
keys leave open, the names that the reading lists are tried: as somebody does who follows what it says.
"""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from repsim.models import build_model
from repsim.models.checkpoints import normalizers, read_checkpoint
from repsim.models.checkpoints.recognizing import _Unallocated
from repsim.models.libraries import import_timm, robustbench_entries

NORMALIZATIONS = {
    "none": ((0.0,) * 3, (1.0,) * 3),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5,) * 3, (0.5,) * 3),
}


def build(data: str, threat: str, name: str) -> nn.Module:
    """The network as RobustBench's own loader builds it."""
    entry = robustbench_entries()[data, threat, name]  # which tells timm of RobustBench's own
    registered = f"{name}_{data}_{threat}".lower().replace("-", "_")
    with contextlib.redirect_stdout(io.StringIO()):
        if import_timm().is_model(registered):
            return import_timm().create_model(registered)
        return entry["model"]()


def groups(data: str, threat: str) -> tuple[list[list[str]], dict[str, str]]:
    """Names of networks that are the same but for their weights; and those that cannot be built, and why."""
    found: dict[tuple, list[str]] = {}
    failed = {}
    for each in robustbench_entries():
        if each[:2] != (data, threat):
            continue
        try:
            with _Unallocated():
                network = build(*each)
        except RuntimeError:  # some look at their weights
            try:
                network = build(*each)
            except Exception as error:
                failed[each[2]] = f"{type(error).__name__}: {error}"
                continue
        except Exception as error:
            failed[each[2]] = f"{type(error).__name__}: {error}"
            continue
        shapes = tuple((key, tuple(value.shape)) for key, value in network.state_dict().items())
        found.setdefault((type(network).__name__, repr(network), shapes), []).append(each[2])
    return list(found.values()), failed


def shaken(network: nn.Module) -> nn.Module:
    """The network with random statistics, so that each BatchNorm does something else."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@torch.no_grad()
def how(data: str, threat: str, name: str, path: Path, images: Tensor) -> str:
    """How a network's file loads right: in words that begin with `right`, or else what is wrong."""
    torch.manual_seed(0)
    network = shaken(build(data, threat, name))
    expected = network(images)
    torch.save(network.state_dict(), path)
    del network
    gc.collect()
    try:
        read = read_checkpoint(path, image_shape=tuple(images.shape[1:]))
    except (ValueError, RuntimeError) as error:
        return f"refused: {error}"
    own = {} if read.mean is None else {"of the file": (read.mean, read.std)}
    nearest = float("inf")
    for architecture in (read.architecture, *read.alternatives):
        for said, (mean, std) in (own or NORMALIZATIONS).items():
            logits = loaded(architecture, read.weights, mean, std, len(expected[0]))(images)
            difference = ((logits - expected).abs().max() / expected.std()).item()
            nearest = min(nearest, difference)
            if difference < 1e-4:
                return f"right as {architecture}, normalisation {said}"
    return f"wrong by {nearest:.1g} of the logits' deviation as {read.architecture}"


def loaded(name: str, weights: dict, mean: tuple, std: tuple, classes: int) -> nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):
        if name.startswith("robustbench:"):  # its classes hold numbers besides weights
            network = build_model(name, (3, 32, 32), classes, mean, std)
        else:
            with _Unallocated():
                network = build_model(name, (3, 32, 32), classes, mean, std)
    network.load_state_dict(weights | normalizers.normalization(mean, std), assign=True)
    return network.eval()


def main(leaderboard: str) -> None:
    data, threat = leaderboard.split("/")
    same, failed = groups(data, threat)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    right = 0
    for reason, name in ((f"RobustBench cannot build it here: {why}", name) for name, why in failed.items()):
        print(f"{name}: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        for names in same:
            answer = how(data, threat, names[0], Path(folder) / "weights.pt", images)
            right += len(names) * answer.startswith("right")
            print(f"{', '.join(names)}: {answer}", flush=True)
    total = sum(len(names) for names in same) + len(failed)
    print(f"{leaderboard}: {right} of {total} load right")


if __name__ == "__main__":
    main(sys.argv[1])
