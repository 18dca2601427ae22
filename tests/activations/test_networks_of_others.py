"""What is read of networks that nobody here wrote is what they compute: each way in which it once was not."""

import copy
import pickle
import random
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from toy_networks import randomized

from repsim.activations import Observer, capture, fold_batchnorm, trace
from repsim.measures import MEASURES
from repsim.models import build_model
from repsim.studies.cka_maps.layer_maps import layer_cka, matched_cka
from repsim.studies.inversion import invert
from repsim.studies.stitching import StitchOptions, make_transform, splice, stitch
from repsim.support.compat import torchvision

SHAPE = (3, 16, 16)
QUICK = {"iterations": 2, "progress": False}


def images(count=6, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """One residual sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.r, self.fc = nn.ReLU(), nn.Linear(8, 10)

    def body(self, x):
        x = self.r(self.a(x))
        return self.fc((x + self.r(self.b(x))).mean((2, 3)))

    def forward(self, x):
        return self.body(x)


def make(kind=Net):
    torch.manual_seed(0)
    return randomized(kind())


def gradient(run, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(run(x).square().sum(), x)[0]


# -- a graph is used only where it is the network -----------------------------------------------------------


def with_hook():
    network = make()
    network.register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 0.5) / 0.1,))
    return network


def with_patched_forward():
    network = make()
    forward = network.forward
    network.forward = lambda x: forward((x - 0.5) / 0.1)
    return network


class Guarded(Net):
    def forward(self, x):
        return self.body((x - 0.5) / 0.2 if isinstance(x, torch.Tensor) else x)


class Autocast(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.body(x)


class GradientMode(Net):
    def forward(self, x):
        return self.body(2 * x if torch.is_grad_enabled() else x)


class PatchedAndBranching(Net):
    def __init__(self):
        super().__init__()
        forward = self.forward
        self.forward = lambda x: forward(-x if x.sum() > 1e9 else x / 2)


OTHERS = {
    "hook": (with_hook, "hooked"),
    "patched forward": (with_patched_forward, "traced"),
    "branch on types": (lambda: make(Guarded), "hooked"),
    "autocast": (lambda: make(Autocast), "hooked"),
    "branch on gradient mode": (lambda: make(GradientMode), "traced"),
    "patched and branching": (lambda: make(PatchedAndBranching), "hooked"),
}


@pytest.mark.matrix("hook", "patched forward", "branch on gradient mode")
@pytest.mark.parametrize("name", OTHERS)
def test_layers_are_those_of_the_network_as_it_is_called(name):
    build, how = OTHERS[name]
    network = build()
    graph = trace(network, SHAPE)
    assert (graph.how, bool(graph.reason)) == (how, how == "hooked")
    with torch.no_grad():
        expected = network(images())
    assert torch.equal(capture(network, images(), "fc")["fc"], expected)
    penultimate = graph.select("penultimate")[0]
    suffix = graph.suffix(penultimate)
    with torch.no_grad():
        found = suffix.rest(graph.prefix(penultimate)(images()), *suffix.context(images()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    own = gradient(network, images())
    torch.testing.assert_close(gradient(graph.prefix("fc"), images()), own, rtol=1e-3, atol=1e-6)
    invert(network, images()[:2], images()[2:4], **QUICK)


class StraightThrough(torch.autograd.Function):
    """Its gradient is not its forward pass's."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return g


class Binarized(Net):
    def forward(self, x):
        return self.body(StraightThrough.apply(x - 0.5))


class Stopped(Net):
    def forward(self, x):
        with torch.no_grad():
            y = self.r(self.a(x))
        return self.fc((y + self.r(self.b(x.mean((1, 2, 3), keepdim=True) + y))).mean((2, 3)))


@pytest.mark.parametrize(("kind", "inner"), [(Binarized, "add"), (Stopped, "add_1")])
def test_gradients_are_the_networks_own(kind, inner):
    network = make(kind)
    graph = trace(network, SHAPE)
    own = gradient(network, images())
    assert own.abs().max() > 0
    torch.testing.assert_close(gradient(graph.prefix("fc"), images()), own, rtol=1e-4, atol=0)
    (penultimate,) = graph.select("penultimate")
    assert graph.prefix(penultimate)(images().requires_grad_()).requires_grad
    with pytest.raises(ValueError, match=f"'{inner}' is none"):
        graph.prefix(inner)


def test_random_numbers_of_python_and_torch_are_told_and_never_part_of_a_graph():
    class Random(Net):
        def forward(self, x):
            return self.body(x if random.random() < 0.5 else 2 * x)

    class Masked(Net):
        def forward(self, x):
            return self.body(x * (torch.rand(len(x), 1, 1, 1) > 0.5))

    for kind in (Random, Masked):
        state = torch.get_rng_state(), random.getstate()
        with pytest.warns(UserWarning, match="draws random numbers in evaluation mode"):
            graph = trace(make(kind), SHAPE)
        assert graph.how == "hooked"
        assert graph.draws
        assert torch.equal(torch.get_rng_state(), state[0])
    values = [capture(graph, images(20), "fc")["fc"] for _ in range(2)]
    assert not torch.equal(*values)


@pytest.mark.parametrize("error", [NameError, KeyError, AttributeError, ValueError, AssertionError])
def test_whatever_fails_while_tracing_means_hooks(error):
    class Fails(Net):
        def forward(self, x):
            if not isinstance(x, torch.Tensor):
                raise error("no")
            return self.body(x)

    graph = trace(make(Fails), SHAPE)
    assert graph.how == "hooked"
    assert error.__name__ in graph.reason
    assert list(graph.layers) == ["a", "r", "b", "r_1", "fc"]
    assert graph.table()["read"].unique().tolist() == ["hooked"]
    assert graph.notes[0].startswith("Layers are read by hooks")


def test_networks_that_decide_by_sizes_are_traced():
    class Sized(Net):
        def forward(self, x):
            n, c, h, w = x.shape
            if h != 16 or len(x.shape) != 4:
                raise ValueError(f"{h} pixels")
            return self.body(x.reshape(n, int(c), h * w).view(n, c, h, w))

    graph = trace(make(Sized), SHAPE)
    assert graph.how == "traced"
    torch.testing.assert_close(capture(graph, images(7), "fc")["fc"], graph.network(images(7)).detach())


def test_a_network_that_decides_by_values_is_hooked_and_a_layer_that_never_ran_is_refused():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.h = nn.Linear(768, 32), nn.Linear(32, 32), nn.Linear(32, 5)

        def forward(self, x):
            value = self.a(x.flatten(1)).relu()
            return self.h(self.b(value).relu() if x.mean().item() > 0.3 else value)

    network = make(Skips)
    graph = trace(network, SHAPE)
    assert graph.how == "hooked"
    dark = images(8) * 0.1
    options = {"layers_a": ["a", "b"], "layers_b": ["a", "b"], "batch_size": None, "progress": False}
    for run in (lambda: layer_cka(network, network, dark, **options), lambda: capture(network, dark, "b")):
        with pytest.raises(ValueError, match=r"for these images the network never computes 'b'"):
            run()


# -- folding ------------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    "old spectral norm": nn.utils.spectral_norm,
    "hooked": lambda conv: conv.register_forward_hook(lambda *_: _[2] * 2) and conv,
    "subclass": lambda conv: type("Doubling", (nn.Conv2d,), {"forward": doubled})(3, 8, 3),
}


def doubled(self, x):
    return 2 * nn.Conv2d.forward(self, x)


@pytest.mark.matrix("spectral norm", "hooked", "subclass")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_batchnorm_is_folded_only_where_that_changes_nothing(name):
    torch.manual_seed(0)
    layers = [CONVOLUTIONS[name](nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10))
    network(images())  # gives BatchNorm statistics, and old norms their weights
    network.eval()
    graph = trace(network, SHAPE)
    assert list(graph.layers) == list("012345")
    with torch.no_grad():
        expected = network[:3](images())
    part = fold_batchnorm(graph.prefix("2"), images())
    torch.testing.assert_close(part(images()), expected)
    assert any(isinstance(module, nn.BatchNorm2d) for module in part.modules())
    invert(network, images()[:2], images()[2:4], **QUICK)


def test_folding_that_changes_something_is_given_up_with_a_word(monkeypatch):
    network = randomized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval())
    part = trace(network, SHAPE).prefix("2")
    monkeypatch.setattr("repsim.activations.folding.fuse_conv_bn_eval", lambda conv, norm: conv)
    with pytest.warns(UserWarning, match="could not be folded"):
        assert fold_batchnorm(part, images()) is part


# -- layers are what they do --------------------------------------------------------------------------------


def test_a_parametrised_classifier_is_one():
    layers = [nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(16, 10))]
    graph = trace(nn.Sequential(*layers).eval(), SHAPE)
    assert graph.select("penultimate") == ["2"]
    assert graph.table()["operation"].tolist() == ["Flatten", "Linear", "ReLU", "Linear"]


def test_a_convolution_may_be_the_classifier():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 10, 1), nn.Flatten()]
    assert trace(make(lambda: nn.Sequential(*layers)), SHAPE).select("penultimate") == ["2"]
    averaged = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert trace(make(lambda: nn.Sequential(*averaged)), SHAPE).select("penultimate") == ["1"]
    squeezed = [nn.Conv2d(3, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    with pytest.raises(ValueError, match="an affine map of no layer's value alone"):
        trace(make(lambda: nn.Sequential(*squeezed)), SHAPE).select("penultimate")


class Prototypes(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.c, self.i, self.t = nn.Conv2d(3, 8, 3), nn.Linear(8, 7), nn.Linear(9, 7)
        self.register_buffer("w", torch.randn(count, 9))

    def forward(self, x):
        return self.i(self.c(x).relu().mean((2, 3))) @ self.t(self.w).T


@pytest.mark.matrix("3")
@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_as_many_prototypes_as_images_are_no_images(count):
    network = make(lambda: Prototypes(count))
    graph = trace(network, SHAPE)
    assert list(graph.layers) == ["c", "i"]
    assert graph.select("penultimate") == ["i"]
    with pytest.raises(ValueError, match=r"'t' is no layer: its value for 2 images is \(\d, 7\)"):
        graph.select("t")
    assert len(layer_cka(network, network, images(), progress=False)) == 4


class Zero(nn.Module):
    """Compares embeddings with words, as CLIP does."""

    def __init__(self):
        super().__init__()
        self.u, self.d, self.w = nn.Linear(16, 64), nn.Linear(64, 16), nn.Parameter(torch.randn(16, 5))

    def forward(self, x):
        tokens = x.flatten(1, 2)
        return (tokens + self.d(self.u(tokens).relu())).mean(1) @ self.w


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.hidden = nn.Linear(768, 5), nn.Linear(32, 5), nn.Linear(768, 32)

    def forward(self, x):
        x = x.flatten(1)
        return (self.a(x) + self.b(self.hidden(x).relu())) / 2


class Headless(Zero):
    def forward(self, x):
        tokens = x.flatten(1, 2)
        return (tokens + self.d(self.u(tokens).relu())).mean(1)


def test_penultimate_is_what_alone_decides_the_answer_or_a_refusal():
    graph = trace(make(Zero), SHAPE)
    (name,) = graph.select("penultimate")
    assert graph.values[name].shape == (16,)
    for kind in (TwoHeads, Headless):
        with pytest.raises(ValueError, match="an affine map of no layer's value alone"):
            trace(make(kind), SHAPE).select("penultimate")
    one_class = make(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 9), nn.ReLU(), nn.Linear(9, 1), nn.Sigmoid())
    )
    with pytest.raises(ValueError, match="an affine map of no layer's value alone"):
        trace(one_class, SHAPE).select("penultimate")
    answers = nn.Sequential(nn.Flatten(), nn.Linear(768, 9), nn.ReLU(), nn.Linear(9, 4), nn.LogSoftmax(1))
    assert trace(make(lambda: answers), SHAPE).select("penultimate") == ["2"]


# -- wrappers, outputs --------------------------------------------------------------------------------------


class Flagged(Net):
    def forward(self, x, return_features=False):
        return None if return_features else self.body(x)


WRAPPED = {
    "flags": lambda: make(Flagged),
    "DataParallel": lambda: nn.DataParallel(make()).eval(),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(make()).eval(),
    "compiled": lambda: torch.compile(make(), backend="eager"),
}


@pytest.mark.matrix("flags", "averaged")
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_seen_through(name):
    network, plain = WRAPPED[name](), trace(make(), SHAPE)
    graph = trace(network, SHAPE)
    assert graph.how == "traced"
    for layers in ("all", "blocks", "penultimate"):
        assert graph.select(layers) == plain.select(layers)
    assert graph.select("blocks") == ["add"]


def test_a_network_inside_another_has_the_same_blocks_traced_or_hooked():
    inner = build_model("resnet_tiny", SHAPE, 10, [0.0] * 3, [1.0] * 3).eval()

    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = inner

        def forward(self, x):
            return self.net(-x if x.sum() > 1e9 else x)

    hooked, traced = trace(Untraceable().eval(), SHAPE), trace(inner, SHAPE)
    blocks = hooked.select("blocks")
    assert blocks == ["net.layer1.0", "net.layer2.0", "net.layer3.0"]
    ours, theirs = capture(hooked, images(), blocks), capture(traced, images(), "blocks")
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))
    assert capture(traced, images(), "layer2.0")["layer2.0"].equal(theirs["layer2.0.relu2"])


@pytest.mark.parametrize("form", [lambda y, x: (y, x), lambda y, x: {"logits": y, "hidden": x}])
def test_logits_are_found_in_tuples_and_mappings(form):
    class Other(Net):
        def forward(self, x):
            return form(self.body(x), x)

    network, expected = make(Other), make()(images()).detach()
    graph = trace(network, SHAPE)
    assert (graph.how, graph.classes, graph.select("penultimate")) == ("traced", 10, ["mean"])
    found = Observer(graph, ["a"]).observe(images())
    torch.testing.assert_close(found.logits, expected)
    transform = make_transform(graph, graph, "add", "add", initial="identity")
    torch.testing.assert_close(splice(graph, graph, "add", "add", transform)(images()), expected)


@pytest.mark.parametrize(
    ("make_network", "message"),
    [
        (lambda: torch.jit.trace(make(), images(2)), "a TorchScript module was compiled for running"),
        (lambda: torch.export.export(make(), (images(2),)), "a torch.export program was compiled"),
        (lambda: "resnet18", r"expected a network, a torch\.nn\.Module, not str"),
        (lambda: nn.Bilinear(3, 3, 3), r"Bilinear fails on images of shape \(3, 16, 16\).*'input2'.*alone"),
        (lambda: nn.Conv2d(1, 1, 3), "expected input.* to have 1 channels"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_network_for_these_images_is_refused_in_a_sentence(make_network, message):
    with pytest.raises(ValueError, match=message):
        trace(make_network(), SHAPE)


# -- precision, batches, places -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_compute_in_their_own_precision(dtype):
    network, precise = make().to(dtype), make()
    assert capture(network, images(), "fc")["fc"].dtype == dtype
    ours, theirs = (layer_cka(n, n, images(40), progress=False)["value"] for n in (network, precise))
    assert (ours - theirs).abs().max() < {torch.float64: 1e-4}.get(dtype, 0.05)
    assert invert(network, images()[:2], images()[2:4], **QUICK).images.dtype == torch.float32
    graph = trace(network, SHAPE)
    transform = make_transform(graph, graph, "add", "add", initial="identity")
    with torch.no_grad():
        found, expected = splice(graph, graph, "add", "add", transform)(images()), network(images().to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected.double(), rtol=0.05, atol=0.02)


def test_the_default_precision_is_none_of_the_networks():
    network = make()
    torch.set_default_dtype(torch.float64)
    try:
        assert len(layer_cka(network, network, images(), progress=False)) == 36
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_hangs_on_the_batch_is_told_and_not_inverted():
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    layers = [nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    network = nn.Sequential(*layers).eval()
    with pytest.warns(UserWarning, match="depends on the other images in its batch"):
        assert trace(network, SHAPE).batch_dependent
    with (
        pytest.warns(UserWarning, match="depends on the other images"),
        pytest.raises(ValueError, match="no image can be inverted by itself"),
    ):
        invert(network, images(), images(), **QUICK)


class TokensFirst(nn.Module):
    """(tokens, images, width), then windows folded into the batch, by image or by window."""

    def __init__(self, by_window):
        super().__init__()
        self.by_window = by_window
        self.embed, self.mix, self.inner = nn.Linear(48, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        tokens = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).transpose(1, 2).flatten(2)
        tokens = self.mix(self.embed(tokens).transpose(0, 1))  # (16, n, 12)
        windows = tokens.unflatten(0, (4, 4))  # (4, 4, n, 12)
        order = (0, 2, 1, 3) if self.by_window else (2, 0, 1, 3)
        windows = self.inner(windows.permute(order).flatten(0, 1)).relu()
        sizes = (4, -1) if self.by_window else (-1, 4)
        windows = windows.unflatten(0, sizes)
        windows = windows.transpose(0, 1) if self.by_window else windows
        return self.head(windows.mean((1, 2)))


@pytest.mark.parametrize("by_window", [True, False])
def test_a_row_is_an_image_wherever_the_network_has_it(by_window):
    network = make(lambda: TokensFirst(by_window))
    graph = trace(network, SHAPE)
    assert graph.layers["mix"].shape == (16, 12)
    assert graph.layers["inner"].shape == (4, 4, 12)
    assert {graph.layers[name].channel_axis for name in ("mix", "inner")} == {1, 2}
    found = capture(network, images(), ["mix", "inner"])
    for row in range(6):
        alone = capture(network, images()[row : row + 1], ["mix", "inner"])
        for name, value in alone.items():
            torch.testing.assert_close(found[name][row], value[0])
    transform = make_transform(graph, graph, "inner", "inner", initial="identity")
    with torch.no_grad():
        stitched = splice(graph, graph, "inner", "inner", transform)
        torch.testing.assert_close(stitched(images(5)), network(images(5)))


# -- layouts ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "other", "channels"),
    [
        ("swin_t", "features.1.1.add_1", "features.3.1.add_1", 96),
        ("convnext_tiny", "features.1.1.block.3", "features.3.1.add", 384),
    ],
)
def test_channels_are_told_from_positions(name, layer, other, channels):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    graph = trace(network, (3, 64, 64))
    assert graph.how == "traced"
    assert make_transform(graph, graph, layer, layer).weight.shape == (channels, channels)
    some = images(8, (3, 64, 64))
    x, y = capture(graph, some, [layer, other]).values()
    by_hand = [
        value.mean((1, 2)) if value.shape[1] < value.shape[3] else value.mean((2, 3)) for value in (x, y)
    ]
    options = {"layers_a": layer, "layers_b": other, "estimator": "biased", "batch_size": None, "pool": True}
    found = layer_cka(graph, graph, some, progress=False, **options)["value"].item()
    assert found == pytest.approx(float(MEASURES["cka"](*by_hand)), abs=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_a_layout_that_nothing_tells_is_asked_for():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.head = nn.ReLU(), nn.Linear(768, 4)

        def forward(self, x):
            return self.head(self.act(x.reshape(-1, 12, 64)).flatten(1))

    network = make(Shuffled)
    graph = trace(network, SHAPE)
    assert graph.layers["act"].layout == "unknown"
    with pytest.raises(ValueError, match="nothing that the network does tells which axis holds the channels"):
        make_transform(graph, graph, "act", "act")
    for layout, channels in (("channels_first", 12), ("channels_last", 64)):
        graph = trace(network, SHAPE, layout=layout)
        assert make_transform(graph, graph, "act", "act").weight.shape == (channels, channels)
    with pytest.raises(ValueError, match="unknown layout 'channels_las'; did you mean 'channels_last'"):
        trace(network, SHAPE, layout="channels_las")


# -- names --------------------------------------------------------------------------------------------------


class Numbered(nn.Module):
    def __init__(self, branching):
        super().__init__()
        self.branching = branching
        self.conv_1, self.conv_2 = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.r, self.r_1 = nn.ReLU(), nn.Linear(768, 5)

    def forward(self, x):
        if self.branching and x.sum() > 1e9:
            x = -x
        return self.r_1(self.r(self.conv_2(self.r(self.conv_1(x)))).flatten(1))


@pytest.mark.parametrize("branching", [True, False])
def test_a_name_is_the_modules_path_traced_or_hooked(branching):
    network = make(lambda: Numbered(branching))
    graph = trace(network, SHAPE)
    assert graph.how == ("hooked" if branching else "traced")
    assert list(graph.layers) == ["conv_1", "r", "conv_2", "r_2", "r_1"]
    with torch.no_grad():
        assert torch.equal(capture(graph, images(), "conv_1")["conv_1"], network.conv_1(images()))
        assert torch.equal(graph.prefix("r_1")(images()), network(images()))


def test_layers_of_hooked_networks_are_complete():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))
            self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)

        def forward(self, x):
            x = self.conv(x).flatten(2).transpose(1, 2)
            return self.head(self.attend(x, x, -x if x.sum() > 1e9 else x)[0].mean(1))

    graph = trace(make(Attends), SHAPE)
    assert graph.how == "hooked"
    assert list(graph.layers) == ["conv", "attend", "head"]
    assert graph.layers["attend"].shape == (196, 8)
    suffix = graph.suffix("attend")
    rest = suffix.rest(2 * graph.prefix("attend")(images()), images())
    assert not torch.allclose(rest, graph.network(images()))


# -- nothing of the caller's changes ------------------------------------------------------------------------


@pytest.mark.parametrize("branching", [True, False])
def test_images_stay_as_they_are_where_a_network_works_in_place(branching):
    class InPlace(Net):
        def forward(self, x):
            x.sub_(0.5)
            return self.body(-x if branching and x.sum() > 1e9 else x)

    network, some = make(InPlace), images()
    first, second = (capture(network, some, "penultimate") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    Observer(trace(network, SHAPE), ["a"]).observe(some)
    layer_cka(network, network, some, progress=False)
    invert(network, some[:2], some[2:4], **QUICK)
    assert torch.equal(some, images())


def test_tracing_leaves_nothing_in_the_network():
    class Constant(Net):
        def forward(self, x):
            return self.body(x * torch.tensor([[[0.5]]]))

    network = make(Constant)
    before = set(vars(network)), set(network.state_dict())
    graph = trace(network, SHAPE)
    assert graph.how == "traced"
    assert (set(vars(network)), set(network.state_dict())) == before
    torch.testing.assert_close(graph.prefix("fc")(images()), network(images()).detach())


def test_tracing_in_one_thread_leaves_other_threads_networks_alone():
    deep = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(20)], nn.Flatten(), nn.Linear(768, 5))
    mine, done, failures = nn.Linear(3, 3), threading.Event(), []

    def call():
        while not done.is_set():
            try:
                mine(torch.rand(1, 3))
            except Exception as error:
                failures.append(error)

    others = [
        threading.Thread(target=call),
        threading.Thread(target=lambda: [trace(deep, SHAPE) for _ in "123"]),
    ]
    for thread in others:
        thread.start()
    graphs = [trace(deep.eval(), SHAPE) for _ in range(3)]
    done.set()
    for thread in others:
        thread.join()
    assert not failures
    assert {graph.how for graph in graphs} == {"traced"}
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl


def test_graphs_and_stitched_networks_are_copied_and_pickled():
    network = build_model("torchvision:resnet18", SHAPE, 10, [0.0] * 3, [1.0] * 3).eval()
    graph = trace(network, SHAPE)
    transform = make_transform(graph, graph, "layer1.0.add", "layer1.0.add", initial="identity")
    stitched = splice(graph, graph, "layer1.0.add", "layer1.0.add", transform)
    again = pickle.loads(pickle.dumps(stitched))
    with torch.no_grad():
        assert torch.equal(again(images()), stitched(images()))
    for twin in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert list(twin.values) == list(graph.values)
        options = {"layers_a": "conv1", "layers_b": "conv1", "progress": False}
        assert layer_cka(twin, graph, images(), **options)["value"].item() == pytest.approx(1)


# -- what a fresh pair of eyes found ------------------------------------------------------------------------


class Caches(Net):
    """Fills a cache when it first runs, counts its calls, keeps a list, and follows a moving mean."""

    def __init__(self):
        super().__init__()
        self.places, self.calls, self.seen = None, 0, []
        self.register_buffer("mean", torch.ones(1))

    def forward(self, x):
        self.calls += 1
        x = self.a(x)
        if self.places is None:
            self.places = torch.linspace(0, 1, x.shape[-1])
        self.seen.append(x)
        self.mean.mul_(0.9)
        return self.fc(self.r(x + self.places).mean((2, 3)))


def test_a_network_keeps_nothing_of_being_tried_out():
    network = make(Caches)
    graph = trace(network, SHAPE)
    assert (network.places, network.calls, network.seen, network.mean.item()) == (None, 0, [], 1)
    assert list(graph.layers) == ["a", "r", "fc"]
    expected = network(images())
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(capture(graph, images(), "fc")["fc"], expected.detach())


def test_a_network_that_keeps_its_last_values_has_those_of_before():
    class Keeps(Net):
        def __init__(self):
            super().__init__()
            self.last, self.all = {}, []

        def forward(self, x):
            x = self.a(x)
            self.last["a"], self.all[:] = x, [x]
            return self.fc(self.r(x).mean((2, 3)))

    network = make(Keeps)
    network(images(4))
    kept = network.last["a"]
    assert trace(network, SHAPE).how == "traced"
    assert network.last["a"] is kept
    assert network.all[0] is kept


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_of_one_shape_is_no_constant(seed):
    class Noise(Net):
        def forward(self, x):
            return self.body(x + 0.3 * torch.randn(3, 16, 16))

    torch.manual_seed(seed)
    network = Noise().eval()
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="draws random numbers"):
        assert trace(network, SHAPE).how == "hooked"
    assert torch.equal(torch.get_rng_state(), state)


class WorksInPlace(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        if self.way == "function":
            nn.functional.relu(x, inplace=True)
        elif self.way == "method":
            x.mul_(2)
        else:
            torch.mul(x, 2, out=x)
        return x


class Clamp(nn.ReLU):
    def forward(self, x):
        return x.clamp_(min=0)


@pytest.mark.parametrize("act", [*(WorksInPlace(way) for way in ("function", "method", "out")), Clamp()])
def test_what_a_module_puts_out_is_read_after_it_has_worked_in_place(act):
    layers = [nn.Conv2d(3, 4, 3), act, nn.Flatten(), nn.Linear(784, 5)]
    network, seen = make(lambda: nn.Sequential(*layers)), {}
    graph = trace(network, SHAPE)
    with torch.no_grad():
        handle = network[1].register_forward_hook(
            lambda module, inputs, output: seen.update(value=output.clone())
        )
        network(images())
        handle.remove()
        values = [
            capture(graph, images(), "1")["1"],
            Observer(graph, ["1"]).observe(images()).values["1"].view(seen["value"].shape),
            graph.prefix("1")(images()),
        ]
    for value in values:
        assert torch.equal(value, seen["value"])


def test_how_many_images_there_are_is_no_part_of_a_graph():
    class Many(Net):
        def forward(self, x):
            return self.body((x - 0.5) / 0.2 if x.shape[0] > 16 else x)

    class Chunks(Net):
        def forward(self, x):
            return torch.cat([self.body(x[i : i + 8]) for i in range(0, len(x), 8)])

    network = make(Many)
    torch.testing.assert_close(capture(network, images(24), "fc")["fc"], network(images(24)).detach())
    chunked = make(Chunks)
    with pytest.raises(ValueError, match="has 8 rows for 24 images: the network computes it for a part"):
        capture(chunked, images(24), "all")
    with pytest.raises(ValueError, match="has 8 rows for 24 images"):
        layer_cka(chunked, chunked, images(24), batch_size=None, progress=False)


def test_images_of_another_shape_are_refused_by_a_graph():
    graph = trace(make(), SHAPE)
    other = images(6, (3, 32, 32))
    for run in (
        lambda: capture(graph, other, "a"),
        lambda: Observer(graph, ["a"]).observe(other),
        lambda: layer_cka(graph, graph, other, progress=False),
        lambda: invert(graph, other, other, **QUICK),
    ):
        with pytest.raises(ValueError, match=r"were traced for images of shape \(3, 16, 16\).*\(3, 32, 32\)"):
            run()


def test_masked_logits_hide_no_difference():
    def masked(body):
        logits = body
        return torch.cat([logits[:, :8], logits[:, 8:] - 1e9], 1)

    class Masked(Net):
        def forward(self, x):
            return masked(self.body((x - 0.5) / 0.2 if isinstance(x, torch.Tensor) else x))

    class MaskedHeadless(Zero):
        def forward(self, x):
            tokens = x.flatten(1, 2)
            return masked((tokens + self.d(self.u(tokens).relu())).mean(1))

    network = make(Masked)
    assert torch.equal(capture(network, images(), "fc")["fc"][:, :8], network(images())[:, :8].detach())
    with pytest.raises(ValueError, match="an affine map of no layer's value alone"):
        trace(make(MaskedHeadless), SHAPE).select("penultimate")


def test_where_tokens_are_mixed_channels_stay_channels():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Conv2d(3, 12, 4, 4), nn.Linear(16, 20)
            self.back, self.norm, self.head = nn.Linear(20, 16), nn.LayerNorm(12), nn.Linear(12, 4)

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = x + self.back(self.mix(self.norm(x).transpose(1, 2)).relu()).transpose(1, 2)
            return self.head(x.mean(1))

    graph = trace(make(Mixer), SHAPE)
    layouts = {name: (layer.shape, layer.layout) for name, layer in graph.layers.items()}
    assert layouts["mix"] == ((12, 20), "channels_first")
    assert layouts["add"] == ((16, 12), "channels_last")


def test_wrappers_that_do_more_are_no_wrappers():
    class Normalizing(nn.DataParallel):
        def forward(self, x):
            return super().forward((x - 0.5) / 0.2)

    patched = nn.DataParallel(make()).eval()
    forward = patched.forward
    patched.forward = lambda x: forward((x - 0.5) / 0.2)
    for network in (Normalizing(make()).eval(), patched):
        value = capture(network, images(), "module.fc")["module.fc"]
        torch.testing.assert_close(value, network(images()).detach())


def test_networks_that_change_the_precision_themselves_get_float32():
    class Half(Net):
        def forward(self, x):
            return self.body(((x - 0.5) * 30).to(self.fc.weight.dtype))

    class WithScale(Net):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return self.body(x * self.scale.float())

    for network in (make(Half).bfloat16(), make(WithScale)):
        with torch.no_grad():
            expected = network(images())
            assert torch.equal(capture(network, images(), "fc")["fc"], expected)
            graph = trace(network, SHAPE)
            transform = make_transform(graph, graph, "add", "add", initial="identity")
            stitched = splice(graph, graph, "add", "add", transform)(images())
        assert stitched.dtype == expected.dtype
        torch.testing.assert_close(stitched, expected, rtol=0.05, atol=0.05)


def test_a_network_that_has_changed_is_read_as_it_is_or_refused():
    traced, hooked = make(), make(type("Branching", (Net,), {"forward": lambda self, x: branch(self, x)}))
    graphs = [trace(network, SHAPE) for network in (traced, hooked)]
    for network, graph in zip((traced, hooked), graphs, strict=True):
        network.load_state_dict(make(lambda: randomized(Net(), seed=5)).state_dict())
        torch.testing.assert_close(graph.prefix("fc")(images()), network(images()))
    traced.fc = nn.Linear(8, 10)
    with pytest.raises(ValueError, match="'fc' is another module than it was when the network was traced"):
        capture(graphs[0], images(), "fc")


def branch(network, x):
    return network.body(-x if x.sum() < -1 else x)


def test_stitches_keep_what_goes_around_them_as_it_is():
    class Masked(Net):
        def forward(self, x):
            x = self.a(x)
            mask = x > 0
            return self.fc(torch.where(mask, self.b(x), x).mean((2, 3)))

    labels = torch.arange(12) % 10
    options = StitchOptions(epochs=1, batch_size=6)
    for network in (make(Masked), make(Masked).double()):
        stitched, _ = stitch(network, network, "b", "b", images(12), labels, options, progress=False)
        assert stitched(images()).shape == (6, 10)


def test_a_network_that_cannot_be_copied_is_captured_and_else_refused_in_words():
    class Locked(Net):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def forward(self, x):
            return branch(self, x)

    graph = trace(make(Locked), SHAPE)
    assert capture(graph, images(), "fc")["fc"].shape == (6, 10)
    with pytest.raises(ValueError, match=r"the network cannot be copied \(cannot pickle"):
        graph.prefix("fc")


def test_loaders_that_shuffle_are_refused_where_rows_are_matched():
    some = torch.utils.data.TensorDataset(images(12), torch.arange(12))
    loader = torch.utils.data.DataLoader(some, batch_size=5, shuffle=True)
    network = make()
    for run in (
        lambda: capture(network, loader, "fc"),
        lambda: matched_cka(network, loader, loader, progress=False),
        lambda: invert(network, loader, loader, **QUICK),
    ):
        with pytest.raises(ValueError, match="come from a loader that shuffles"):
            run()
    assert len(layer_cka(network, network, loader, progress=False)) == 36


def test_inversion_works_where_gradients_are_switched_off():
    network = make()
    with torch.inference_mode():
        some = images(4) * 1
        found = invert(network, some, some.flip(0), **QUICK)
    assert found.curve["loss"].iloc[-1] < found.curve["loss"].iloc[0]


def test_one_hooked_network_in_several_threads():
    network = make(Chunked)
    graph = trace(network, SHAPE)
    assert graph.how == "hooked"
    alone = capture(graph, images(), "all")
    found, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: found.append(capture(graph, images(), "all"))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(each[name], alone[name]) for each in found for name in alone)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Chunked(Net):
    def forward(self, x):
        return branch(self, x)
