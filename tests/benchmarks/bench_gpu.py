"""What a GPU makes of the package: beside the processor, beside plain PyTorch, and beside what it can do.

Ratios of the processor's time to the GPU's are of the same call. Peers are the same computation in a few
lines of PyTorch, on the GPU. The ceilings are measured first: large products, and a copy. Without a GPU there
is nothing to measure. All of it takes some four minutes; words behind it choose parts by their titles.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from measuring import Row, show

from repsim.activations import trace
from repsim.attacks import Attack, run_attack
from repsim.data import Augmentation, Dataset, Split
from repsim.measures import MEASURES
from repsim.models import build_model
from repsim.studies.cka_maps.layer_maps import layer_cka
from repsim.studies.inversion import FeatureExtractor, invert
from repsim.studies.probing import ProbeOptions, fit_probe
from repsim.studies.stitching import StitchOptions, stitch
from repsim.support.devices import laid_out, lay_out, tf32
from repsim.training import Recipe, train
from repsim.training.optimization import objective

GPU, CPU = torch.device("cuda"), torch.device("cpu")
SIZES = ((10_000, 512), (2_000, 8_192))
SHAPE = (3, 32, 32)
MAP_IMAGES = 512
BATCH = 128
STEPS = 7  # of the attack in training
BATCHES = 8  # trained on, timed together
LAYER, MODULE = "layer2.1.relu_1", "layer2.1"  # the output of a block, and what computes it
ATTACK = Attack(8 / 255, steps=20)
# a forward pass of ResNet-18 with the CIFAR stem on one image, two operations for each product
RESNET18_FLOPS = 2 * 0.5564e9
LONG = 2.0  # seconds, of a call that is made once
LARGE = 8192  # rows and columns of the products that ceilings are measured by


def seconds(run: Callable[[], object], device: torch.device = GPU, repeats: int = 3) -> float:
    """The least time of a call; on the GPU after one to warm up, which counts where it takes long."""
    times = []
    for _ in range(repeats + (device.type == "cuda")):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - start)
        if times[-1] > LONG:
            break
    return min(times)


def synchronize() -> None:
    torch.cuda.synchronize()


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def network_of(name: str, device: torch.device = GPU) -> nn.Module:
    return build_model(name, SHAPE, 10, [0.5] * 3, [0.25] * 3).eval().to(device)


def shown(taken: float) -> str:
    return f"{1000 * taken:.1f} ms" if taken < 1 else f"{taken:.2f} s"


# what the device can do


def ceilings() -> tuple[list[Row], dict[str, float]]:
    """Rates of large products by precision, in operations a second, and bytes a second of a copy."""
    rows, found = [], {}
    for name, dtype, coarse in (
        ("float64", torch.float64, False),
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        a, b = (drawn(LARGE, LARGE, seed=i).to(GPU, dtype) for i in range(2))
        with tf32(coarse):
            taken = seconds(lambda a=a, b=b: a @ b)
        found[name] = 2 * LARGE**3 / taken
        rows.append(Row(f"product of {LARGE} × {LARGE} in {name}", f"{found[name] / 1e12:.0f} TFLOP/s"))
    source = torch.empty(2**28, device=GPU)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / seconds(lambda: target.copy_(source))
    rows.append(Row("copy of 1 GiB, bytes read and written", f"{found['copy'] / 1e12:.2f} TB/s"))
    return rows, found


# measures


def plain_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    if x.shape[1] <= len(x):
        return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return float((k * l).sum() / (k.norm() * l.norm()))


def plain_procrustes(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    if x.shape[1] > len(x):
        x, y = (torch.linalg.qr(each.T, mode="r").R.T for each in (x, y))
    return float(torch.linalg.svdvals(x.T @ y).sum() / (x.norm() * y.norm()))


def plain_jaccard(x: Tensor, y: Tensor, k: int = 10) -> float:
    nearest = []
    for each in (x, y):
        unit = F.normalize(each)
        nearest.append((unit @ unit.T).fill_diagonal_(-2).topk(k).indices)
    shared = (nearest[0][:, :, None] == nearest[1][:, None]).any(2).sum(1).double()
    return float((shared / (2 * k - shared)).mean())


def plain_distance_correlation(x: Tensor, y: Tensor) -> float:
    centred = []
    for each in (x, y):
        far = torch.cdist(each, each)
        centred.append(far - far.mean(0) - far.mean(1, keepdim=True) + far.mean())
    a, b = centred
    return float(((a * b).sum() / (a.norm() * b.norm())).clamp(min=0).sqrt())


PEERS = {
    "cka": plain_cka,
    "procrustes_similarity": plain_procrustes,
    "jaccard": plain_jaccard,
    "distance_correlation": plain_distance_correlation,
    "cka_debiased": None,
    "pwcca": None,
    "linear_regression": None,
}
SLOW = ("pwcca", "linear_regression")  # of more units than inputs they say nothing


def measures(found: dict[str, float]) -> Iterator[Row]:
    for (n, width), dtype in ((size, dtype) for size in SIZES for dtype in (torch.float64, torch.float32)):
        shared, *own = (drawn(n, width, seed=i, dtype=dtype) for i in range(3))
        here = [shared + each for each in own]
        there = [each.to(GPU) for each in here]
        kind = str(dtype).removeprefix("torch.")
        for name, peer in PEERS.items():
            if name in SLOW and width > n:
                continue
            measure = MEASURES[name]
            taken = seconds(partial(measure, *there, dtype=dtype))
            cpu = seconds(partial(measure, *here, dtype=dtype), CPU, 1)
            label = f"{name}, {n} × {width}, {kind}"
            yield Row(f"{label}: processor ÷ GPU", shown(taken), cpu / taken)
            if peer:
                yield Row(f"{label}: ours ÷ plain", "", taken / seconds(lambda p=peer, v=there: p(*v)))
            if name == "cka":
                small = min(n, width)
                bound = 2 * 3 * n * width * small / found[kind]
                yield Row(f"{label}: ours ÷ its products at the rate above", "", taken / bound)


# layer maps


def plain_map(network: nn.Module, layers: list[str], images: Tensor) -> Tensor:
    """Debiased CKA of all layers with all, by hooks, one Gram matrix for each layer and batch."""
    kept: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: kept.update({name: output.flatten(1)})
        )
        for name in layers
    ]
    total = 0.0
    with torch.no_grad():
        for batch in images.split(BATCH):
            network(batch)
            grams = []
            for value in kept.values():
                n = len(value)
                gram = (value @ value.T).double().fill_diagonal_(0)
                rows = gram.sum(1) / (n - 2)
                gram = gram - rows[:, None] - rows + rows.sum() / (n - 1)
                grams.append(gram.fill_diagonal_(0).flatten())
            stack = torch.stack(grams)
            total = total + stack @ stack.T
    for hook in hooks:
        hook.remove()
    return total.cpu()


def maps() -> Iterator[Row]:
    images = pixels(MAP_IMAGES)
    for name in ("resnet18", "wrn_28_4"):
        there, here = (trace(network_of(name, device), SHAPE) for device in (GPU, CPU))
        modules = dict(there.network.named_modules())
        layers = [layer for layer in there.layers if layer in modules]
        given = images.to(GPU)
        options = {"layers_a": layers, "layers_b": layers, "batch_size": BATCH, "progress": False}
        taken = seconds(lambda g=there, v=given, o=options: layer_cka(g, g, v, **o), repeats=2)
        from_cpu = seconds(lambda g=there, o=options: layer_cka(g, g, images, **o), repeats=1)
        few = images[:BATCH]
        cpu = seconds(lambda g=here, v=few, o=options: layer_cka(g, g, v, **o), CPU, 1)
        peer = seconds(lambda g=there, k=layers, v=given: plain_map(g.network, k, v), repeats=2)
        label = f"map of {name}, {len(layers)} layers, {MAP_IMAGES} images"
        yield Row(f"{label}: processor ÷ GPU", shown(taken), cpu * MAP_IMAGES / BATCH / taken)
        yield Row(f"{label}: ours ÷ plain", "", taken / peer)
        yield Row(f"{label}: with images on the CPU ÷ on the GPU", shown(from_cpu), from_cpu / taken)


# training


def data_of(count: int) -> Dataset:
    split = Split(pixels(count), torch.arange(count) % 10)
    classes = tuple(map(str, range(10)))
    return Dataset("noise", "noise", classes, split, split, Augmentation(), (0.5,) * 3, (0.25,) * 3, "noise")


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Adversarial training as it is usually written, in full precision."""
    model.eval()
    epsilon, size = 8 / 255, 2.5 * 8 / 255 / STEPS
    moved = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(STEPS):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
        moved = (x + (moved.detach() + size * gradient.sign() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(moved), y).backward()
    optimizer.step()


def training(found: dict[str, float]) -> Iterator[Row]:
    data = data_of(BATCHES * BATCH)
    options = {"method": "pgd", "epsilon": 8 / 255, "attack_steps": STEPS, "batch_size": BATCH}
    recipe = Recipe.on(data, "resnet18", epochs=1, learning_rate=0.01, **options)
    x, y = (each[:BATCH].to(GPU) for each in (data.train.images, data.train.labels))
    # a step of the attack is a forward and a backward pass for pixels; what is learned from has weights' too
    work = (2 * STEPS + 3) * RESNET18_FLOPS
    rates = {}
    for name, coarse, half, memory_format in (
        ("float32", False, False, torch.contiguous_format),
        ("float32, channels last", False, False, torch.channels_last),
        ("tf32", True, False, torch.contiguous_format),
        ("tf32, channels last", True, False, torch.channels_last),
        ("bfloat16", True, True, torch.contiguous_format),
        ("bfloat16, channels last", True, True, torch.channels_last),
    ):
        model = lay_out(network_of("resnet18").train(), memory_format)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        given = laid_out(x, memory_format)

        def step(model=model, optimizer=optimizer, given=given, half=half) -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
                loss, _ = objective(recipe, recipe.attack(), model, given, y)
            loss.backward()
            optimizer.step()

        with tf32(coarse):
            rates[name] = BATCH / seconds(step)
        kind = name.partition(",")[0]
        ceiling = rates[name] * work / found[kind]
        yield Row(f"PGD-{STEPS} step, {name}: share of the products' rate", f"{rates[name]:.0f}/s", ceiling)
    model = network_of("resnet18").train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    for name, coarse in (("float32", False), ("tf32", True)):
        with tf32(coarse):
            plain = BATCH / seconds(lambda: plain_step(model, optimizer, x, y))
        yield Row(f"PGD-{STEPS} step, {name}: ours ÷ plain", f"{plain:.0f}/s plain", rates[name] / plain)
    taken = seconds(lambda: train(recipe, data, device="cuda", progress=False), repeats=2)
    whole = len(data.train) / taken
    yield Row("train(), one epoch: ÷ the fastest step", f"{whole:.0f} images/s", whole / max(rates.values()))


# attacks, inverted images, stitches, probes


def plain_pgd(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    epsilon, size = ATTACK.epsilon, ATTACK.step_size
    moved = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(ATTACK.steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
        moved = images + (moved.detach() + size * gradient.sign() - images).clamp(-epsilon, epsilon)
        moved = moved.clamp(0, 1)
    return moved


def attacks() -> Iterator[Row]:
    network, images = network_of("resnet18"), pixels(500)
    labels = torch.arange(500) % 10
    there = images.to(GPU), labels.to(GPU)
    taken = seconds(lambda: run_attack(network, *there, ATTACK), repeats=2)
    peer = seconds(lambda: plain_pgd(network, *there), repeats=2)
    few = images[:20], labels[:20]
    on_cpu = network_of("resnet18", CPU)
    cpu = seconds(lambda: run_attack(on_cpu, *few, ATTACK), CPU, 1) * 25
    yield Row("PGD-20, ResNet-18, 500 images: processor ÷ GPU", shown(taken), cpu / taken)
    yield Row("PGD-20: ours ÷ plain", "", taken / peer)


def plain_inversion(model: nn.Module, seeds: Tensor, targets: Tensor, iterations: int) -> Tensor:
    """The published updates by a hook on the whole network."""
    kept: list[Tensor] = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model(targets)
    wanted, images, velocity = kept.pop(), seeds, torch.zeros_like(seeds)
    for _ in range(iterations):
        images = images.detach().requires_grad_()
        model(images)
        loss = (kept.pop() - wanted).norm(dim=1) / wanted.norm(dim=1)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        norms = gradient.flatten(1).norm(dim=1).input_set(-1, 1, 1, 1)
        velocity = 0.9 * velocity + 0.1 * gradient / norms.clamp_min(1e-12)
        images = (images - velocity / 8).clamp(0, 1)
    hook.remove()
    return images.detach()


def inversion() -> Iterator[Row]:
    network, count, iterations = network_of("resnet18"), 100, 50
    seeds, targets = (pixels(count, seed).to(GPU) for seed in range(2))
    options = {"iterations": iterations, "tolerance": 0.0, "progress": False}
    graph = trace(network, SHAPE)
    peer = seconds(lambda: plain_inversion(network, seeds, targets, iterations), repeats=1)
    label = f"inversion, ResNet-18, {count} images, {iterations} updates"
    methods = {
        "TF32, as it comes": {},
        "bfloat16": {"precision": "bfloat16"},
    }
    for name, more in methods.items():
        read = FeatureExtractor(graph, "penultimate", SHAPE)
        taken = seconds(lambda r=read, m=more: invert(r, seeds, targets, **options, **m), repeats=1)
        yield Row(f"{label}, {name}: plain ÷ ours", shown(taken), peer / taken)
    compiled = FeatureExtractor(graph, "penultimate", SHAPE, compiled=True)
    start = time.perf_counter()
    invert(compiled, seeds, targets, **{**options, "iterations": 11})
    ready = time.perf_counter() - start
    taken = seconds(lambda: invert(compiled, seeds, targets, **options), repeats=1)
    yield Row(f"{label}, compiled in {ready:.0f} s: plain ÷ ours", shown(taken), peer / taken)


def plain_stitch(front: nn.Module, end: nn.Module, images: Tensor, labels: Tensor, options) -> None:
    """Both networks whole at each step, the value read and replaced by hooks."""
    transform = nn.Conv2d(128, 128, 1).to(GPU)
    taken: list[Tensor] = []
    hooks = [
        front.get_submodule(MODULE).register_forward_hook(lambda m, i, output: taken.append(output)),
        end.get_submodule(MODULE).register_forward_hook(lambda m, i, output: transform(taken.pop())),
    ]
    optimizer = torch.optim.Adam(transform.parameters(), options.learning_rate)
    for _ in range(options.epochs):
        for batch in torch.randperm(len(images), device=GPU).split(options.batch_size):
            optimizer.zero_grad()
            with torch.no_grad():
                front(images[batch])
            F.cross_entropy(end(images[batch]), labels[batch]).backward()
            optimizer.step()
    for hook in hooks:
        hook.remove()


def stitches() -> Iterator[Row]:
    front, end = (copy.deepcopy(network_of("resnet18")).requires_grad_(False) for _ in range(2))
    images, labels = pixels(2048).to(GPU), (torch.arange(2048) % 10).to(GPU)
    graphs = trace(front, SHAPE), trace(end, SHAPE)
    options = StitchOptions(epochs=4, batch_size=BATCH)

    def ours(options: StitchOptions) -> None:
        stitch(*graphs, LAYER, LAYER, images, labels, options, progress=False)

    taken = seconds(lambda: ours(options), repeats=1)
    peer = seconds(lambda: plain_stitch(front, end, images, labels, options), repeats=1)
    yield Row("stitch by loss, ResNet-18, 2,048 images, 4 epochs: plain ÷ ours", shown(taken), peer / taken)
    direct = seconds(lambda: ours(StitchOptions(method="pseudo_inverse")), repeats=1)
    yield Row("stitch by matching, ResNet-18, 2,048 images", shown(direct))


def plain_probe(features: Tensor, labels: Tensor) -> None:
    linear = nn.Linear(features.shape[1], 10).to(features.device)
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=500, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(linear(features), labels) + 5e-4 * linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)


def probes() -> Iterator[Row]:
    n, width = SIZES[0]
    features = drawn(n, width) * torch.linspace(0.2, 2, width)
    labels = (features @ drawn(width, 10, seed=1) + 10 * drawn(n, 10, seed=2)).argmax(1)
    there = features.to(GPU), labels.to(GPU)
    for kind in ("ridge", "logistic", "adam"):
        options = ProbeOptions(kind)
        taken = seconds(lambda o=options: fit_probe(*there, 10, o))
        cpu = seconds(lambda o=options: fit_probe(features, labels, 10, o), CPU, 1)
        yield Row(f"probe, {kind}, {n} × {width}: processor ÷ GPU", shown(taken), cpu / taken)
        if kind == "logistic":
            peer = seconds(lambda: plain_probe(*there), repeats=1)
            yield Row("probe, logistic: plain ÷ ours", "", peer / taken)


def card() -> str:
    """The GPU, its driver and its clocks."""
    query = "--query-gpu=name,driver_version,clocks.max.sm,memory.total,power.limit"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return torch.cuda.get_device_name()


def main() -> None:
    if not torch.cuda.is_available():
        print("there is no GPU here: nothing is measured.")
        return
    print(f"{card()}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}\n", flush=True)
    rows, found = ceilings()
    show("What the GPU can do", rows)
    parts = {
        "Adversarial training of ResNet-18 on 32 × 32, batches of 128, images a second": (
            lambda: training(found)
        ),
        "Layer maps": maps,
        "Attacks": attacks,
        "Stitches": stitches,
        "Probes": probes,
        "Measures": lambda: measures(found),
        "Inverted images": inversion,
    }
    words, failed = sys.argv[1:], []
    for title, part in parts.items():
        if words and not any(word.lower() in title.lower() for word in words):
            continue
        start, rows, said = time.perf_counter(), [], []
        try:
            for row in part():  # what was measured before something fails is shown all the same
                rows.append(row)
        except Exception as error:
            said = [f"failed: {type(error).__name__}: {error}"]
            failed.append(title)
        print(flush=True)
        show(title, rows, [*said, f"measured in {time.perf_counter() - start:.0f} s"])
        print(flush=True)
        torch.cuda.empty_cache()
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
