"""Inverting takes the published steps, image by image, does what its options say, and leaves models alone."""

import copy
import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_networks import Branching, Inplace, randomized

from repsim.activations import LayerGraph, capture, trace
from repsim.data import load_data
from repsim.studies.inversion import FeatureExtractor, invert, inverting
from repsim.support import devices
from repsim.support.compat import import_robustness
from repsim.training import model_store, zoo
from repsim.training.optimization import Diverged

COUNT = 6
ALL = {"tolerance": 0.0}  # as published: no image leaves before the last iteration


@cache
def trained(epsilon=0.0):
    """A committed network."""
    (recipe,) = zoo.recipes(load_data("digits"), ["resnet_tiny"], [epsilon], [0])
    return model_store.find(recipe, "cpu").network


@cache
def reader():
    """The same network, traced once for tests that invert often."""
    return FeatureExtractor(trained(), "penultimate", load_data("digits").image_shape)


@cache
def toy(kind=Inplace):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomized(kind())


def bright():
    """A network whose every ReLU is dead for dark images."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).eval()
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[0].bias.fill_(-0.5)
    return network


def pixels(count=COUNT, shape=(3, 8, 8), seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def pair(data, count=COUNT):
    """Digits, and as many others."""
    return data.test.images[:count], data.test.images[count : 2 * count]


def one_ahead(data):
    """Twenty pairs, of which the first is by far the nearest."""
    seeds, targets = data.test.images[:20], data.test.images[40:60]
    return torch.cat([0.7 * targets[:1], seeds[1:]]), targets


def run(model, seeds, targets, layer="penultimate", **options):
    return invert(model, seeds, targets, layer, progress=False, **options)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def seen_by(network, path=None):
    """Images → what a module puts out (or the last linear one takes), by a hook on a copy of the network."""
    twin, found = copy.deepcopy(network), {}
    if path is None:
        last = [module for module in twin.modules() if isinstance(module, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda module, inputs: found.update(value=inputs[0]))
    else:
        hook = twin.get_submodule(path).register_forward_hook
        hook(lambda module, inputs, output: found.update(value=output.clone()))

    def represent(images):
        twin(images)
        return found["value"].flatten(1)

    return represent


def distances(represent, images, targets):
    with torch.no_grad():
        wanted = represent(targets)
        return (represent(images) - wanted).norm(dim=1) / wanted.norm(dim=1)


def published(represent, seed, target, iterations, *, step_size=1 / 8, momentum=0.9, use_best=True):
    """One image inverted by the published loop: the image, its loss, and the losses along the way."""
    image, velocity, kept, losses = seed.clone(), torch.zeros_like(seed), None, []
    with torch.no_grad():
        wanted = represent(target[None])[0]
    for iteration in range(iterations + 1):
        x = image.clone().requires_grad_()
        loss = (represent(x[None])[0] - wanted).pow(2).sum().sqrt() / wanted.pow(2).sum().sqrt()
        if not losses or not use_best or loss.item() < losses[-1]:
            losses.append(loss.item())
            kept = image
        else:
            losses.append(losses[-1])
        if iteration < iterations:
            (gradient,) = torch.autograd.grad(loss, x)
            velocity = momentum * velocity + (1 - momentum) * gradient / gradient.pow(2).sum().sqrt()
            image = (image - step_size * velocity).clamp(0, 1)
    return kept, losses[-1], losses


def state_of(network):
    return {
        **{name: value.clone() for name, value in network.state_dict().items()},
        **{f"{name}.training": module.training for name, module in network.named_modules()},
        **{f"{name}.requires_grad": weight.requires_grad for name, weight in network.named_parameters()},
        **{f"{name}.grad": weight.grad for name, weight in network.named_parameters()},
        **{f"{name}.hooks": len(module._forward_hooks) for name, module in network.named_modules()},
    }


def same_state(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


@pytest.fixture(autouse=True)
def has_bfloat16(monkeypatch):
    """A processor without bfloat16 computes the same, but takes longer."""
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: True)


@pytest.fixture
def reads(monkeypatch):
    """How many images each forward pass was of."""
    counts, read = [], FeatureExtractor.__call__

    def counting(reader, images):
        counts.append(len(images))
        return read(reader, images)

    monkeypatch.setattr(FeatureExtractor, "__call__", counting)
    return counts


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled, and how; nothing is, but what is given is written over what was given before."""
    calls = []

    def as_a_cuda_graph(part, **options):
        given = []

        def read(images):
            value = part(images)
            for before in given:
                before.data[: len(value)] = value.detach()[: len(before)]
            given.append(value)
            return value

        calls.append((part, options))
        return read

    monkeypatch.setattr(torch, "compile", as_a_cuda_graph)
    return calls


# the published loop


@pytest.mark.matrix("0.1-options0", "options0-0.1")
@pytest.mark.parametrize("options", [{}, {"use_best": False}, {"momentum": 0.5, "step_size": 0.5}])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_takes_the_published_steps(tiny_data, epsilon, options):
    seeds, targets = pair(tiny_data)
    represent = seen_by(trained(epsilon))
    found = run(trained(epsilon), seeds, targets, iterations=12, **ALL, **options)
    by_image = [published(represent, *images, 12, **options) for images in zip(seeds, targets, strict=True)]
    images, losses, curves = (list(column) for column in zip(*by_image, strict=True))
    torch.testing.assert_close(found.images, torch.stack(images), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.loss, torch.tensor(losses), rtol=0, atol=1e-5)
    curve = torch.tensor(curves).double().mean(0)
    torch.testing.assert_close(torch.tensor(found.curve["loss"].to_numpy()), curve, rtol=0, atol=1e-5)
    assert (found.images - seeds).flatten(1).norm(dim=1).min() > 0.1


@pytest.mark.matrix("Inplace-bn1", "Branching-None")
@pytest.mark.parametrize(
    ("kind", "path"),
    [(Inplace, "conv"), (Inplace, "bn1"), (Inplace, "fc"), (Branching, "conv2"), (Branching, None)],
)
def test_takes_the_published_steps_at_any_layer_of_any_network(kind, path):
    seeds, targets = pixels(), pixels(seed=1)
    represent = seen_by(toy(kind), path)
    found = run(toy(kind), seeds, targets, path or "penultimate", iterations=6, **ALL)
    expected = [published(represent, *images, 6)[0] for images in zip(seeds, targets, strict=True)]
    torch.testing.assert_close(found.images, torch.stack(expected), rtol=0, atol=1e-4)


class Latent(nn.Module):
    """A network as those of `robustness` are called."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x, with_latent=False, fake_relu=False, no_relu=False):
        latent = self.bn(self.conv(x)).relu().mean((2, 3))
        return (self.fc(latent), latent) if with_latent else self.fc(latent)


def test_takes_the_steps_of_the_published_code_which_runs_in_robustness(monkeypatch):
    attacker, attack_steps = import_robustness("attacker"), import_robustness("attack_steps")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor)

    class Statistics:
        mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])

    class MomentumStep(attack_steps.AttackerStep):
        velocity = 0.0

        def project(self, x):
            return (self.orig_input + (x - self.orig_input).renorm(2, 0, self.eps)).clamp(0, 1)

        def step(self, x, g):
            scaled = g / (g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10)
            self.velocity = 0.9 * self.velocity + 0.1 * scaled
            return x + self.step_size * self.velocity

    def distance(model, inputs, target):
        _, latent = model(inputs, with_latent=True)
        return (latent - target).norm(dim=1) / target.norm(dim=1), None

    model = attacker.AttackerModel(toy(Latent), Statistics).eval()
    seeds, targets = pixels(), pixels(seed=1)
    with torch.no_grad():
        (_, wanted), _ = model(targets, with_latent=True)
    options = {
        "constraint": MomentumStep,
        "eps": 1000,
        "step_size": 1 / 8,
        "iterations": 15,
        "targeted": True,
        "use_best": True,
        "custom_loss": distance,
        "should_normalize": True,
    }
    _, expected = model(seeds, wanted, make_adv=True, **options)
    found = run(model, seeds, targets, iterations=15, **ALL)
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        losses, _ = distance(model.model, model.normalizer(expected), wanted)
    torch.testing.assert_close(found.loss, losses, rtol=0, atol=1e-5)
    assert not torch.allclose(found.images, seeds, atol=0.05)


@pytest.mark.matrix("0.05")
@pytest.mark.parametrize("step_size", [None, 0.05])
def test_adam_is_torchs_followed_by_clamping(tiny_data, step_size):
    seeds, targets = pair(tiny_data)
    represent = seen_by(trained())
    images = seeds.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=step_size or 0.01)
    wanted = represent(targets).detach()
    for _ in range(10):
        optimizer.zero_grad()
        ((represent(images) - wanted).norm(dim=1) / wanted.norm(dim=1)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    options = {} if step_size is None else {"step_size": step_size}
    found = run(trained(), seeds, targets, iterations=10, optimizer="adam", use_best=False, **ALL, **options)
    # where a gradient is 0 but for rounding, its sign is Adam's whole step
    assert ((found.images - images.detach()).abs() < 1e-3).float().mean() > 0.99
    torch.testing.assert_close(found.loss, distances(represent, images, targets), rtol=0, atol=1e-3)


# one image and the others


@pytest.mark.matrix("momentum-0.2", "0.2-momentum")
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("tolerance", [0.0, 0.2])
def test_results_depend_neither_on_the_batch_size_nor_on_the_others(tiny_data, optimizer, tolerance):
    seeds, targets = one_ahead(tiny_data)
    options = {"iterations": 20, "tolerance": tolerance, "optimizer": optimizer}
    together = run(reader(), seeds, targets, **options)
    for batch_size in (1, 7):
        found = run(reader(), seeds, targets, batch_size=batch_size, **options)
        torch.testing.assert_close(found.images, together.images, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.loss, together.loss, rtol=0, atol=1e-5)
        assert torch.equal(found.iterations, together.iterations)
    order = torch.arange(18, -1, -2)
    some = run(reader(), seeds[order], targets[order], **options)
    torch.testing.assert_close(some.images, together.images[order], rtol=0, atol=1e-4)


@pytest.mark.matrix
@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_the_curve_is_the_mean_over_images(tiny_data, tolerance):
    seeds, targets = pair(tiny_data)
    options = {"iterations": 30, "tolerance": tolerance, "batch_size": 1}
    curve = run(reader(), seeds, targets, **{**options, "batch_size": 4}).curve
    alone = [run(reader(), seeds[i : i + 1], targets[i : i + 1], **options).curve for i in range(COUNT)]
    for column in ("loss", "converged"):
        mean = sum(each[column] for each in alone) / COUNT
        assert curve[column].to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-5)


# the best, or the last


def test_the_best_is_each_images_own_of_all_iterations(tiny_data):
    seeds, targets = pair(tiny_data)
    options = {"step_size": 2.0, **ALL}
    lasts = [run(reader(), seeds, targets, iterations=n, use_best=False, **options) for n in range(1, 9)]
    losses = torch.stack([distances(seen_by(trained()), seeds, targets), *(each.loss for each in lasts)])
    found = run(reader(), seeds, targets, iterations=8, **options)
    torch.testing.assert_close(found.loss, losses.amin(0), rtol=0, atol=1e-5)
    images = torch.stack([seeds, *(each.images for each in lasts)])
    chosen = images[losses.argmin(0), torch.arange(COUNT)]
    torch.testing.assert_close(found.images, chosen, rtol=0, atol=1e-5)
    assert len(losses.argmin(0).unique()) > 1


# the ball


@given(
    optimizer=st.sampled_from(["momentum", "adam"]),
    epsilon=st.floats(0.01, 3),
    step_size=st.floats(0.01, 5),
    use_best=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=12)
def test_stays_in_the_ball_and_among_pixels(optimizer, epsilon, step_size, use_best, seed):
    seeds = pixels(seed=seed)
    seeds[0], seeds[1] = 0, 1  # on the edge of the pixels' range
    options = {"optimizer": optimizer, "step_size": step_size, "use_best": use_best, "iterations": 4, **ALL}
    found = run(toy(), seeds, pixels(seed=seed + 100), epsilon=epsilon, **options)
    assert found.images.shape == seeds.shape
    assert found.images.dtype == seeds.dtype
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert ((found.images - seeds).flatten(1).norm(dim=1) <= epsilon * (1 + 1e-5) + 1e-6).all()


def test_a_small_ball_is_left_without_epsilon_and_a_large_one_is_none(tiny_data):
    seeds, targets = pair(tiny_data)
    options = {"iterations": 20, **ALL}
    free, small, large = (run(reader(), seeds, targets, epsilon=e, **options) for e in (0.0, 0.2, 1000.0))
    assert ((free.images - seeds).flatten(1).norm(dim=1) > 0.3).all()
    assert (small.loss > free.loss).all()
    torch.testing.assert_close(large.images, free.images, rtol=0, atol=1e-4)


# the tolerance


def test_converged_images_leave(tiny_data):
    seeds, targets = pair(tiny_data)
    found = run(trained(), seeds, targets, iterations=60, tolerance=0.3)
    done = found.iterations < 60
    assert done.any()
    assert (found.loss[done] <= 0.3).all()
    assert found.converged == pytest.approx((found.loss <= 0.3).float().mean().item())
    assert found.converged == found.curve["converged"].iloc[-1] > 0
    assert found.curve["converged"].iloc[0] == 0
    assert (found.curve["converged"].diff().dropna() >= 0).all()
    assert len(found.curve) == 61


def test_an_image_that_leaves_is_as_it_was_then(tiny_data):
    seeds, targets = pair(tiny_data)
    found = run(reader(), seeds, targets, iterations=60, tolerance=0.3)
    number = int(found.iterations.argmin())
    updates = int(found.iterations[number])
    assert 0 < updates < 60
    short = run(reader(), seeds, targets, iterations=updates, **ALL)
    torch.testing.assert_close(found.images[number], short.images[number], rtol=0, atol=1e-4)


def test_an_image_is_moved_no_further_once_it_has_converged(tiny_data):
    """Not even where no other has."""
    seeds, targets = one_ahead(tiny_data)
    found = run(reader(), seeds, targets, iterations=15, tolerance=0.2)
    alone = run(reader(), seeds[:1], targets[:1], iterations=15, tolerance=0.2)
    assert alone.iterations.tolist() == [10]
    assert found.iterations.tolist() == [10, *[15] * 19]
    torch.testing.assert_close(found.images[:1], alone.images, rtol=0, atol=1e-4)


def test_without_tolerance_every_image_takes_every_iteration(tiny_data, reads):
    found = run(trained(), *pair(tiny_data), iterations=7, **ALL)
    assert found.iterations.tolist() == [7] * COUNT
    assert found.converged == 0
    assert reads == [COUNT] * 9


def test_those_that_have_left_cost_no_more(tiny_data, reads):
    seeds, targets = pair(tiny_data)
    found = run(trained(), seeds, targets, iterations=60, tolerance=0.3)
    assert reads == [
        COUNT,
        *(int((found.iterations >= i).sum()) for i in range(int(found.iterations.max()) + 1)),
    ]


def test_a_seed_that_is_its_target_stays(tiny_data, reads):
    seeds, targets = pair(tiny_data)
    seeds = torch.cat([targets[:2], seeds[2:]])
    found = run(reader(), seeds, targets, iterations=5)
    assert found.iterations.tolist() == [0, 0, 5, 5, 5, 5]
    assert torch.equal(found.images[:2], seeds[:2])
    assert (found.loss[:2] <= 1e-6).all()
    reads.clear()
    all_equal = run(reader(), targets, targets, iterations=5)
    assert all_equal.iterations.tolist() == [0] * COUNT
    assert all_equal.converged == 1
    assert all_equal.curve["converged"].tolist() == [1.0] * 6
    assert reads == [COUNT, COUNT]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("use_best", [True, False])
def test_a_gradient_of_zero_leaves_images_where_they_are(optimizer, use_best):
    """Every ReLU is dead for a black image: nothing says where to go."""
    seeds = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.6)])
    options = {"iterations": 12, "optimizer": optimizer, "use_best": use_best}
    found = run(bright(), seeds, torch.ones(2, 1, 4, 4), **options)
    assert torch.equal(found.images[0], seeds[0])
    assert found.loss[0] == 1
    assert found.images[1].isfinite().all()
    assert found.loss[1] < 0.8


# options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"optimizer": "adam"}, {}),
        ({"iterations": 9}, {}),
        ({"step_size": 0.3}, {}),
        ({"step_size": 0.3}, {"optimizer": "adam"}),
        ({"momentum": 0.5}, {}),
        ({"use_best": False}, {"step_size": 2.0}),
        ({"epsilon": 0.1}, {}),
        ({"epsilon": 0.1}, {"optimizer": "adam"}),
        ({"tolerance": 0.7}, {}),
        ({"precision": "bfloat16"}, {}),
    ],
)
def test_every_option_changes_the_images(tiny_data, options, more):
    seeds, targets = pair(tiny_data)
    plain = run(trained(), seeds, targets, **{"iterations": 20, **more})
    changed = run(trained(), seeds, targets, **{"iterations": 20, **more, **options})
    assert (plain.images - changed.images).abs().max() > 1e-3


def test_bfloat16_reports_float32_distances_of_float32_images(tiny_data, reads):
    seeds, targets = pair(tiny_data)
    found = run(trained(), seeds, targets, iterations=5, precision="bfloat16", tolerance=0.5)
    assert found.images.dtype == found.loss.dtype == torch.float32
    torch.testing.assert_close(
        found.loss, distances(seen_by(trained()), found.images, targets), rtol=0, atol=1e-6
    )
    assert len(reads) == 5 + 1 + 1 + 1
    assert (found.loss < distances(seen_by(trained()), seeds, targets)).all()


@pytest.mark.matrix("True-4")
@pytest.mark.parametrize("batch_size", [4, 100])
@pytest.mark.parametrize("use_best", [True, False])
def test_with_bfloat16_the_curve_ends_with_what_is_reported(tiny_data, batch_size, use_best):
    options = {"iterations": 5, "use_best": use_best, "batch_size": batch_size, "precision": "bfloat16"}
    seeds, targets = pair(tiny_data)
    found = run(reader(), seeds, targets, **options)
    assert found.curve["loss"].iloc[-1] == pytest.approx(found.loss.mean().item(), abs=1e-6)
    assert len(found.curve) == 6
    coarse = run(reader(), seeds, targets, **options, tolerance=found.loss.median().item())
    assert coarse.converged == pytest.approx((coarse.loss <= found.loss.median()).double().mean().item())


def test_bfloat16_comes_nearly_as_near_as_float32(tiny_data):
    seeds, targets = pair(tiny_data)
    first = distances(seen_by(trained()), seeds, targets).mean()
    options = {"iterations": 60, **ALL}
    plain, fast = (run(reader(), seeds, targets, precision=p, **options) for p in ("float32", "bfloat16"))
    assert plain.loss.mean() < 0.1 * first
    assert fast.loss.mean() < 1.1 * plain.loss.mean()


def test_with_bfloat16_images_converge_by_their_float32_distance(tiny_data):
    """Of images that are as near as its rounding, bfloat16 takes some for converged that are not."""
    seeds, targets = tiny_data.test.images[:20], tiny_data.test.images[20:40]
    found = run(reader(), seeds, targets, precision="bfloat16", iterations=150)
    left = found.iterations < 150
    assert left.float().mean() > 0.5
    assert (found.loss[left] <= 0.01).all()


@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_with_bfloat16_the_last_updates_are_in_float32(tiny_data, monkeypatch, tolerance):
    """Once half of the images are near, or one has converged; never far from the targets."""
    rounded, rounding_to = [], devices.rounding_to

    def noting(precision, device):
        rounded.append(precision)
        return rounding_to(precision, device)

    monkeypatch.setattr(inverting, "rounding_to", noting)
    seeds, targets = pair(tiny_data)
    run(reader(), seeds, targets, precision="bfloat16", iterations=80, tolerance=tolerance)
    switched = rounded.index("float32")
    assert rounded == ["bfloat16"] * switched + ["float32"] * (len(rounded) - switched)
    updates = switched - 1
    before = run(reader(), seeds, targets, iterations=updates - 10, **ALL)
    after = run(reader(), seeds, targets, iterations=updates, **ALL)
    if tolerance:
        assert before.loss.min() > 0.9 * tolerance
        assert after.loss.min() < 1.1 * tolerance
    else:
        assert before.loss.median() > 0.9 * inverting.NEAR
        assert after.loss.median() < 1.1 * inverting.NEAR


def test_bfloat16_is_refused_before_anything_is_computed_where_the_device_lacks_it(
    tiny_data, monkeypatch, reads
):
    models = toy(), reader()
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda device: False)
    monkeypatch.setattr(inverting, "trace", lambda *_: pytest.fail("the network was traced"))
    for model in models:
        with pytest.raises(ValueError, match=r"^this processor does not multiply bfloat16 itself"):
            run(model, *pair(tiny_data), precision="bfloat16")
    assert not reads
    run(reader(), *pair(tiny_data), iterations=1)


# what it costs


@pytest.mark.parametrize(("threads", "expected"), [(1, True), (2, False)])
def test_channels_lie_side_by_side_for_one_thread_alone(tiny_data, monkeypatch, threads, expected):
    images, before = tiny_data.test.images[:3], torch.get_num_threads()
    read, strides = FeatureExtractor(trained(), "penultimate", tiny_data.image_shape), []
    convolve = nn.Conv2d.forward

    def noting(module, maps):
        if module.in_channels > 1 and module.kernel_size != (1, 1):  # others lie both ways
            strides.append(module.weight.is_contiguous(memory_format=torch.channels_last))
        return convolve(module, maps)

    monkeypatch.setattr(nn.Conv2d, "forward", noting)
    torch.set_num_threads(threads)
    try:
        value = read(images)
    finally:
        torch.set_num_threads(before)
    assert set(strides) == {expected}
    (wanted,) = capture(trained(), images, "penultimate").values()
    torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(100, [[6] * 6]), (4, [[4] * 6, [2] * 6]), (1, [[1] * 6] * 6)]
)
def test_forward_passes_are_one_more_than_updates_and_one_for_targets(reads, batch_size, sizes):
    run(toy(), pixels(), pixels(seed=1), iterations=4, batch_size=batch_size, **ALL)
    assert reads == [size for batch in sizes for size in batch]


def test_backward_passes_are_as_many_as_updates_and_make_no_gradient_for_weights(monkeypatch):
    wanted, grad = [], torch.autograd.grad

    def counting(outputs, inputs, **options):
        wanted.append(inputs.shape)
        return grad(outputs, inputs, **options)

    read = FeatureExtractor(toy(), "penultimate", (3, 8, 8))  # which looks at the gradient of a random image
    monkeypatch.setattr(torch.autograd, "grad", counting)
    run(read, pixels(), pixels(seed=1), iterations=4, **ALL)
    assert wanted == [(COUNT, 3, 8, 8)] * 4


def test_the_network_is_read_up_to_the_layer_and_no_further():
    late, calls = Counted(), []
    network = nn.Sequential(nn.Conv2d(3, 2, 3), late, nn.Flatten(), nn.Linear(72, 3)).eval()
    graph = trace(network, (3, 8, 8))
    Counted.calls = calls
    before, behind = (FeatureExtractor(graph, layer, (3, 8, 8)) for layer in "01")
    calls.clear()  # of a few random images that they were tried on
    run(before, pixels(), pixels(seed=1), iterations=3, **ALL)
    assert calls == []
    run(behind, pixels(), pixels(seed=1), iterations=3, **ALL)
    assert calls == [COUNT] * 5


class Counted(nn.Hardtanh):
    calls: list[int] = []  # noqa: RUF012

    def forward(self, x):
        self.calls.append(len(x))
        return super().forward(x)


def test_a_network_is_compiled_once_up_to_the_layer_for_one_size_of_batch(compiled, reads):
    read = FeatureExtractor(toy(), "bn1", (3, 8, 8), compiled=True)
    assert read.compiled
    run(read, pixels(), pixels(seed=1), iterations=3, **ALL)
    run(read, pixels(seed=2), pixels(seed=3), iterations=3, **ALL)
    ((part, options),) = compiled
    assert options["dynamic"] is False
    assert not [module for module in part.modules() if isinstance(module, nn.Linear)]
    torch.testing.assert_close(part(pixels()), capture(toy(), pixels(), "bn1")["bn1"], rtol=1e-4, atol=1e-4)
    assert reads == [COUNT] * 5 * 2


@pytest.mark.matrix
@pytest.mark.parametrize("options", [ALL, {"tolerance": 0.3}, {"precision": "bfloat16", **ALL}])
def test_a_compiled_network_gives_the_same(tiny_data, compiled, options):
    """Though what it gives is gone with the next call."""
    seeds, targets = pair(tiny_data)
    plain = run(trained(), seeds, targets, iterations=30, **options)
    assert compiled == []
    read = FeatureExtractor(trained(), "penultimate", tiny_data.image_shape, compiled=True)
    found = run(read, seeds, targets, iterations=30, **options)
    assert len(compiled) == 1
    torch.testing.assert_close(found.images, plain.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.loss, plain.loss, rtol=0, atol=1e-5)
    assert torch.equal(found.iterations, plain.iterations)
    for column in ("loss", "converged"):
        assert found.curve[column].to_numpy() == pytest.approx(plain.curve[column].to_numpy(), abs=1e-5)


@pytest.mark.usefixtures("compiled")
def test_images_leave_a_compiled_network_only_all_together(tiny_data, reads):
    seeds, targets = pair(tiny_data)
    read = FeatureExtractor(trained(), "penultimate", tiny_data.image_shape, compiled=True)
    found = run(read, seeds, targets, iterations=60, tolerance=0.3)
    first, last = int(found.iterations.min()), int(found.iterations.max())
    assert first < last < 60
    assert reads == [COUNT] * (1 + last + 1)


# the reader


@pytest.mark.parametrize("layer", ["penultimate", "layer2.0.add"])
def test_a_reader_gives_what_the_layer_does(tiny_data, layer):
    images = tiny_data.test.images[:COUNT]
    read = FeatureExtractor(trained(), layer, tiny_data.image_shape)
    (value,) = capture(trained(), images, layer).values()
    torch.testing.assert_close(read(images), value.flatten(1), rtol=1e-4, atol=1e-4)
    assert read.device == torch.device("cpu")
    assert read.compiled is False


def test_a_reader_is_inverted_as_its_model_at_its_own_layer(tiny_data):
    seeds, targets = pair(tiny_data)
    read = FeatureExtractor(trained(), "layer2.0.add", tiny_data.image_shape)
    for layer in ("penultimate", "none"):
        found = run(read, seeds, targets, layer, iterations=4)
        assert torch.equal(found.images, run(trained(), seeds, targets, "layer2.0.add", iterations=4).images)


def test_a_reader_is_a_frozen_copy(tiny_data):
    images, network = tiny_data.test.images[:COUNT], copy.deepcopy(trained())
    read = FeatureExtractor(network, "penultimate", tiny_data.image_shape)
    before = read(images)
    assert not before.requires_grad
    for weight in network.parameters():
        weight.data.zero_()
    assert torch.equal(read(images), before)
    assert before.any()


# what is left alone


@pytest.mark.matrix
@pytest.mark.parametrize("kind", [Inplace, Branching])
@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"precision": "bfloat16"}])
def test_the_model_the_images_and_the_random_state_are_untouched(kind, options):
    network, seeds, targets = copy.deepcopy(toy(kind)), pixels(), pixels(seed=1)
    (network.conv if kind is Inplace else network.conv1).weight.requires_grad_(False)
    before, random = state_of(network), torch.get_rng_state()
    run(network, seeds, targets, iterations=3, **options)
    assert same_state(state_of(network), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(seeds, pixels())
    assert torch.equal(targets, pixels(seed=1))


def test_a_graph_gives_what_its_network_gives(tiny_data):
    seeds, targets = pair(tiny_data)
    graph = trace(trained(), tiny_data.image_shape)
    assert isinstance(graph, LayerGraph)
    for layer in ("penultimate", "layer2.0.add"):
        one, other = (run(model, seeds, targets, layer, iterations=4) for model in (trained(), graph))
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.loss, other.loss)


def test_it_is_repeated_exactly_and_shares_no_memory_with_the_seeds(tiny_data):
    seeds, targets = pair(tiny_data)
    one, again = (run(trained(), seeds, targets, iterations=4) for _ in range(2))
    assert torch.equal(one.images, again.images)
    assert one.curve.equals(again.curve)
    same = run(trained(), targets, targets, iterations=1)
    same.images.zero_()
    assert targets.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_pixels_of_another_precision_are_taken_as_float32(dtype):
    seeds, targets = pixels().to(dtype), pixels(seed=1).to(dtype)
    plain = run(toy(), seeds.float(), targets.float(), iterations=4)
    for both in ((seeds, targets), (seeds, targets.float()), (seeds.float(), targets)):
        found = run(toy(), *both, iterations=4)
        assert found.images.dtype == found.loss.dtype == torch.float32
        assert torch.equal(found.images, plain.images)
        assert torch.equal(found.loss, plain.loss)


# the way


def test_the_value_at_the_layer_is_what_comes_near(tiny_data):
    seeds, targets = pair(tiny_data)
    layer = "layer2.0.relu2"
    found = run(trained(), seeds, targets, layer, iterations=20, **ALL)
    value, wanted = (
        capture(trained(), images, layer)[layer].flatten(1) for images in (found.images, targets)
    )
    torch.testing.assert_close(
        found.loss, (value - wanted).norm(dim=1) / wanted.norm(dim=1), rtol=0, atol=1e-5
    )
    penultimate = run(trained(), seeds, targets, iterations=20, **ALL)
    assert not torch.allclose(penultimate.images, found.images, atol=1e-2)


# what is refused


def test_a_model_in_training_mode():
    message = (
        "the model is in training mode, where BatchNorm makes each image's representation depend on the "
        "others in its batch: call model.eval() first."
    )
    network = copy.deepcopy(toy()).train()
    for model in (network, trace(network, (3, 8, 8))):
        with refused(message):
            run(model, pixels(), pixels(seed=1))
    run(network.eval(), pixels(), pixels(seed=1), iterations=1)


def test_a_module_that_was_left_in_training_mode():
    message = (
        "the model is in training mode (its bn1), where BatchNorm makes each image's representation depend "
        "on the others in its batch: call model.eval() first."
    )
    network = copy.deepcopy(toy())
    network.bn1.train()
    for model in (network, trace(network, (3, 8, 8))):
        with refused(message):
            run(model, pixels(), pixels(seed=1))
        with refused(message):
            FeatureExtractor(model, "conv", (3, 8, 8))


@pytest.mark.parametrize("layer", ["blocks", "all", "0.1"])
def test_several_layers(tiny_data, layer):
    names = trace(trained(), tiny_data.image_shape).select(layer)
    assert len(names) > 1
    message = f"one layer represents an image; {layer!r} are {len(names)}: {', '.join(names)}."
    with refused(message):
        run(trained(), *pair(tiny_data), layer)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("seeds", "targets"),
    [
        ((6, 3, 8, 8), (5, 3, 8, 8)),
        ((6, 3, 8, 8), (6, 3, 8, 9)),
        ((6, 3, 8, 8), (6, 1, 8, 8)),
    ],
)
def test_shapes_that_are_not_those_of_pairs_of_images(seeds, targets):
    with refused(
        "seeds and targets are (n, c, h, w), each seed with one target: seeds are "
        f"{seeds}, targets {targets}."
    ):
        run(toy(), torch.zeros(seeds), torch.zeros(targets))


def test_no_images():
    with refused("seeds are empty: there is no image."):
        run(toy(), pixels(0), pixels(0))


@pytest.mark.parametrize("which", ["seeds", "targets"])
@pytest.mark.parametrize(
    ("worst", "shown"), [(2.0, "0.2, 2"), (-0.5, "-0.5, 0.2"), (float("nan"), "nan, nan")]
)
def test_pixels_outside_their_range(which, worst, shown):
    images = {"seeds": torch.full((2, 3, 8, 8), 0.2), "targets": torch.full((2, 3, 8, 8), 0.2)}
    images[which][0, 0, 3, 3] = worst
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'{which} must have pixels in [0, 1], found [{shown}].')}"
    ):
        run(toy(), **images)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none(batch_size):
    with refused(f"batch_size must be at least 1, not {batch_size}."):
        run(toy(), pixels(), pixels(seed=1), batch_size=batch_size)


@pytest.mark.parametrize(
    ("silent", "said"), [([3], "3"), ([0, 4], "0, 4"), ([1, 2, 3, 4, 5], "1, 2, 3 and 2 more")]
)
def test_a_target_that_is_represented_by_nothing(silent, said):
    targets = torch.ones(7, 1, 4, 4)
    targets[silent] = 0.2
    with refused(
        f"the representation of target {said} is 0, so that no distance is relative to it: take another "
        "layer, or other targets."
    ):
        run(bright(), torch.ones(7, 1, 4, 4), targets)


def test_targets_are_numbered_over_all_batches():
    targets = torch.ones(7, 1, 4, 4)
    targets[5] = 0.2
    with pytest.raises(ValueError, match=r"^the representation of target 5 is 0,"):
        run(bright(), torch.ones(7, 1, 4, 4), targets, batch_size=2, iterations=1)


# what is not a number


class Root(nn.Module):
    """Not a number for images that are darker than one half."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc((x - 0.5).sqrt().flatten(1))


def diverged(images, iteration):
    return pytest.raises(
        Diverged,
        match=f"^the loss or its gradient is not a number for image {images}, by iteration {iteration}: is "
        "there NaN in the model's weights, or an operation before the layer that has no gradient",
    )


def test_weights_that_are_not_numbers():
    network = copy.deepcopy(toy())
    network.conv.weight.data[0, 0, 0, 0] = torch.nan
    with diverged("0, 1, 2 and 3 more", 0):
        run(network, pixels(), pixels(seed=1))


@pytest.mark.parametrize("batch_size", [7, 3, 1])
def test_images_that_diverge_are_named_over_all_batches(batch_size):
    seeds = torch.full((7, 1, 4, 4), 0.9)
    seeds[4] = 0.2
    with diverged(4, 0):
        run(Root().eval(), seeds, torch.ones(7, 1, 4, 4), batch_size=batch_size, iterations=1, step_size=0.01)


def test_a_gradient_that_is_not_a_number():
    """The root of 0 is 0, and infinitely steep."""
    with diverged(0, 0):
        run(Root().eval(), torch.full((1, 1, 4, 4), 0.5), torch.ones(1, 1, 4, 4))


@pytest.mark.matrix
@pytest.mark.parametrize(("iterations", "noticed"), [(4, 4), (15, 10)])
@pytest.mark.parametrize("use_best", [True, False])
def test_images_that_diverge_on_the_way(iterations, noticed, use_best):
    seeds, targets = torch.full((2, 1, 4, 4), 0.9), torch.ones(2, 1, 4, 4)
    targets[1] = 0.501
    options = {"step_size": 12.0, "momentum": 0.0, "use_best": use_best, "iterations": iterations}
    with diverged(1, noticed):
        run(Root().eval(), seeds, targets, **options, **ALL)


# numbers
