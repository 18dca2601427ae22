"""Files of projects and libraries that build on torchvision's networks, each as its code writes them.

The logits are those of the libraries' own networks, edited as the project edits them, or of a few lines that
compute them from the weights alone.
"""

import importlib
import itertools
import re
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from repsim.models import build_model
from repsim.models.checkpoints.recognizing import recognize
from repsim.support.compat import torchvision

models = torchvision.models
AS_IS = {"normalize.mean": torch.zeros(3, 1, 1), "normalize.std": torch.ones(3, 1, 1)}


def shaken(network):
    """The network with random statistics and biases, so that whatever is left out or mistaken is seen."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                module.bias.normal_(0, 0.1)
    return network.eval()


def theirs(name, **options):
    return models.get_model(name, num_classes=10, weights=None, **options)


def small_stem(network, stride=1, pooling=True):
    network.conv1 = nn.Conv2d(3, 64, 3, stride, 1, bias=False)
    return network if pooling else without_pooling(network)


def without_pooling(network):
    network.maxpool = nn.Identity()
    return network


def dense_small_stem(name):
    network = theirs(name)
    network.features.conv0 = nn.Conv2d(3, network.features.conv0.out_channels, 3, 1, 1, bias=False)
    return network


def halving_first(network):
    for module in network.modules():
        if hasattr(module, "conv3") and module.conv2.stride == (2, 2):
            module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
    return network


def with_eps(network, kind, eps):
    for module in network.modules():
        if isinstance(module, kind):
            module.eps = eps
    return network


def leaky(network):
    for module in network.modules():
        if hasattr(module, "relu"):
            module.relu = nn.LeakyReLU()
    return network


def mobile(width=1.0, first=2):
    """MobileNetV2 for CIFAR: strides of 1 in the stem, and where the paper halves first."""
    network = models.mobilenet_v2(num_classes=10, width_mult=width)
    network.features[0][0].stride = (1, 1)
    network.features[first].conv[1][0].stride = (1, 1)
    return network


def shuffle(name):
    network = without_pooling(theirs(name))
    network.conv1[0].stride = (1, 1)
    return network


def small_patches(name):
    """timm's XCiT as it is trained on CIFAR: its first two convolutions no longer halve."""
    network = timm.create_model(name, num_classes=10)
    for index in (0, 2):
        network.patch_embed.proj[index][0].stride = (1, 1)
    network.patch_embed.patch_size = 4
    return network


def vgg(*hidden):
    """VGG-11 with BatchNorm for CIFAR, with such hidden layers."""
    layers, width_in = [], 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        else:
            layers.append(nn.MaxPool2d(2))
        width_in = width or width_in
    network = nn.Sequential()
    network.features = nn.Sequential(*layers)
    network.flatten = nn.Flatten()
    network.classifier = nn.Sequential()
    for width in hidden:
        network.classifier.extend([nn.Linear(width_in, width), nn.ReLU(), nn.Dropout()])
        width_in = width
    network.classifier.append(nn.Linear(width_in, 10))
    return network


def cifar_googlenet():
    network = theirs("googlenet", aux_logits=False, init_weights=False)
    basic = importlib.import_module("torchvision.models.googlenet").BasicConv2d
    network.conv1 = basic(3, 192, kernel_size=3, padding=1)
    for name in ("maxpool1", "conv2", "conv3", "maxpool2"):
        setattr(network, name, nn.Identity())
    network.maxpool3 = network.maxpool4 = nn.MaxPool2d(3, stride=2, padding=1)
    return network


SAME = {  # project and file → network that its code builds, and our name of it
    "torchvision resnet18": (lambda: theirs("resnet18"), "torchvision:resnet18"),
    "torchvision resnet18, 3 × 3 stem": (lambda: small_stem(theirs("resnet18"), pooling=False), "resnet18"),
    "PyTorch_CIFAR10 resnet18": (lambda: small_stem(theirs("resnet18")), "resnet18+max_pooling"),
    "resnet18, stem of stride 2": (
        lambda: small_stem(theirs("resnet18"), 2, pooling=False),
        "resnet18+stem_stride_2",
    ),
    "resnet18, stem of stride 2 and pooling": (
        lambda: small_stem(theirs("resnet18"), 2),
        "resnet18+stem_stride_2+max_pooling",
    ),
    "resnet18, 7 × 7 without pooling": (
        lambda: without_pooling(theirs("resnet18")),
        "torchvision:resnet18+no_max_pooling",
    ),
    "resnet18, eps": (
        lambda: with_eps(theirs("resnet18"), nn.BatchNorm2d, 1e-3),
        "torchvision:resnet18+bn_eps_1e-3",
    ),
    "robustness leaky_resnet18": (lambda: leaky(theirs("resnet18")), "torchvision:resnet18+leaky_relu"),
    "caffe resnet50": (lambda: halving_first(theirs("resnet50")), "torchvision:resnet50+first_stride"),
    "PyTorch_CIFAR10 densenet121": (lambda: dense_small_stem("densenet121"), "densenet121+max_pooling"),
    "PyTorch_CIFAR10 mobilenet_v2": (mobile, "mobilenet_v2+cifar_strides"),
    "PyTorch_CIFAR10 vgg11_bn": (lambda: vgg(4096, 4096), "vgg11_bn_h4096_4096"),
    "PyTorch_CIFAR10 googlenet": (cifar_googlenet, "cifar_googlenet"),
    "pytorch-cifar-models mobilenetv2_x0_5": (lambda: mobile(0.5), "mobilenet_v2_x0_5+cifar_strides"),
    "pytorch-cifar-models mobilenetv2_x1_4": (lambda: mobile(1.4), "mobilenet_v2_x1_4+cifar_strides"),
    "pytorch-cifar-models shufflenetv2_x0_5": (
        lambda: shuffle("shufflenet_v2_x0_5"),
        "shufflenet_v2_x0_5+stem_stride_1+no_max_pooling",
    ),
    "pytorch-cifar-models vgg11_bn": (lambda: vgg(512, 512), "vgg11_bn_h512_512"),
    "googlenet, fine-tuned": (
        lambda: theirs("googlenet", aux_logits=False, init_weights=False, transform_input=True),
        "googlenet+transform_input",
    ),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=10), "torchvision:resnet18"),
    "timm resnetblur18": (
        lambda: timm.create_model("resnetblur18", num_classes=10),
        "torchvision:resnet18+blur_pooling",
    ),
    "timm resnetaa50": (
        lambda: timm.create_model("resnetaa50", num_classes=10),
        "torchvision:resnet50+average_pooling",
    ),
    "RobustBench XCiT": (
        lambda: small_patches("xcit_nano_12_p16_224"),
        "timm:xcit_nano_12_p16_224+patches_of_4",
    ),
    "timm densenet121": (lambda: timm.create_model("densenet121", num_classes=10), "torchvision:densenet121"),
}


def compared(network, state, name, side=32):
    """Read weights, compare what our network of that name computes, and return how they were read."""
    match = recognize(state, "weights.pth", size=(side, side))
    assert name in (match.architecture, *match.alternatives)
    # timm's have numbers besides weights; of others nothing is drawn, as that takes long
    with torch.device("cpu" if name.startswith("timm:") else "meta"):
        ours = build_model(name, (3, side, side), 10, [0.0] * 3, [1.0] * 3)
    ours.load_state_dict(match.weights | AS_IS, assign=True)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
        expected = getattr(expected, "logits", expected)
        torch.testing.assert_close(ours.eval()(images), expected, rtol=1e-4, atol=1e-5)
    return match


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("file", SAME)
def test_networks_with_torchvisions_keys(file):
    make, name = SAME[file]
    network = shaken(make())
    compared(network, network.state_dict(), name)


# keys of their own


def renamed(state, *rules):
    for pattern, new in rules:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state


def test_keys_of_the_vgg_of_robust_stitching():
    network = shaken(vgg(256, 128))
    names, stage, number = {}, 1, 0
    for index, layer in enumerate(network.features):
        if isinstance(layer, nn.MaxPool2d):
            stage, number = stage + 1, 0
        elif isinstance(layer, nn.Conv2d):
            number += 1
            names[f"features.{index}."] = f"features.conv{stage}_{number}."
            names[f"features.{index + 1}."] = f"features.bn{stage}_{number}."
    names |= {"classifier.0.": "classifier.fc1.", "classifier.3.": "classifier.fc2."}
    names |= {"classifier.6.": "classifier.fc3."}
    state = {
        next(new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)): value
        for key, value in network.state_dict().items()
    }
    compared(network, state, "vgg11_bn_h256_128")


def test_keys_of_the_perceptron_of_robust_stitching():
    widths = [3 * 32 * 32, 300, 300, 300, 10]
    layers = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
    state = {f"fc{i}.{k}": v for i, layer in enumerate(layers, 1) for k, v in layer.state_dict().items()}
    first, *others = layers
    network = nn.Sequential(nn.Flatten(), first)
    for layer in others:
        network.extend([nn.ReLU(), layer])
    compared(network, state, "mlp_w300")


def test_keys_of_the_densenet_of_pytorch_cifar100():
    """No BatchNorm behind the stem, and no ReLU between the blocks."""
    network = shaken(dense_small_stem("densenet121"))
    features = network.features
    features.norm0, features.relu0, features.pool0 = (nn.Identity() for _ in range(3))
    for number in (1, 2, 3):
        getattr(features, f"transition{number}").relu = nn.Identity()
    parts = {"norm1": 0, "conv1": 2, "norm2": 3, "conv2": 5, "norm": 0, "conv": 1}
    state = {}
    for key, value in network.state_dict().items():
        key = key.replace("features.conv0.", "conv1.").replace("features.norm5.", "features.bn.")
        key = key.replace("classifier.", "linear.")
        if found := re.match(r"features\.denseblock(\d)\.denselayer(\d+)\.(\w+)\.(.+)", key):
            block, layer = int(found[1]) - 1, int(found[2]) - 1
            kind = "dense_block3" if block == 3 else f"dense_block_layer_{block}"
            part = parts[found[3]]
            key = f"features.{kind}.bottle_neck_layer_{layer}.bottle_neck.{part}.{found[4]}"
        elif found := re.match(r"features\.transition(\d)\.(\w+)\.(.+)", key):
            key = f"features.transition_layer_{int(found[1]) - 1}.down_sample.{parts[found[2]]}.{found[3]}"
        state[key] = value
    compared(network, state, "densenet121_conv_stem+no_transition_relu")


def normalized(state, name, x):
    parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *parts)


def test_the_mobilenetv2_of_pytorch_cifar100():
    """Against its published table, computed from the weights alone."""
    state = shaken(build_model("mobilenet_v2_cifar_bias", (3, 32, 32), 10, [0.0] * 3, [1.0] * 3)).state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("normalize.")}

    def conv(name, x, **options):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def block(name, x, stride):
        out = F.relu6(normalized(state, f"{name}.residual.1", conv(f"{name}.residual.0", x)))
        out = conv(f"{name}.residual.3", out, stride=stride, padding=1, groups=out.shape[1])
        out = F.relu6(normalized(state, f"{name}.residual.4", out))
        out = normalized(state, f"{name}.residual.7", conv(f"{name}.residual.6", out))
        return out + x if stride == 1 and out.shape == x.shape else out

    def network(x):
        x = F.relu6(normalized(state, "pre.1", conv("pre.0", x, padding=1)))
        x = block("stage1", x, 1)
        for stage, (count, stride) in enumerate([(2, 2), (3, 2), (4, 2), (3, 1), (3, 1)], start=2):
            for index in range(count):
                x = block(f"stage{stage}.{index}", x, 1 if index else stride)
        x = F.relu6(normalized(state, "conv1.1", conv("conv1.0", block("stage7", x, 1))))
        return conv("conv2", x.mean((2, 3), keepdim=True)).flatten(1)

    compared(network, state, "mobilenet_v2_cifar_bias")


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "strides"),
    [("repvgg_a0", (1, 1, 2, 2, 2)), ("repvgg_a2+imagenet_strides", (2, 2, 2, 2, 2))],
)
def test_repvgg(name, strides):
    """Against the plain VGG that it is once its branches are added up (Ding et al., 2021, figure 4)."""
    state = shaken(build_model(name, (3, 32, 32), 10, [0.0] * 3, [1.0] * 3)).state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("normalize.")}

    def folded(kernel, branch):
        scale = state[f"{branch}.weight"] / (state[f"{branch}.running_var"] + 1e-5).sqrt()
        bias = state[f"{branch}.bias"] - state[f"{branch}.running_mean"] * scale
        return kernel * scale[:, None, None, None], bias

    def block(name, x, stride):
        wide = folded(state[f"{name}.rbr_dense.conv.weight"], f"{name}.rbr_dense.bn")
        point = folded(F.pad(state[f"{name}.rbr_1x1.conv.weight"], (1, 1, 1, 1)), f"{name}.rbr_1x1.bn")
        both = [wide, point]
        if f"{name}.rbr_identity.weight" in state:
            same = F.pad(torch.eye(x.shape[1])[:, :, None, None], (1, 1, 1, 1))
            both.append(folded(same, f"{name}.rbr_identity"))
        kernel, bias = (sum(parts) for parts in zip(*both, strict=True))
        return F.conv2d(x, kernel, bias, stride, padding=1).relu()

    def network(x):
        x = block("stage0", x, strides[0])
        for stage in (1, 2, 3, 4):
            index = 0
            while f"stage{stage}.{index}.rbr_dense.conv.weight" in state:
                x = block(f"stage{stage}.{index}", x, 1 if index else strides[stage])
                index += 1
        return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])

    compared(network, state, name)


# transformers, mmpretrain, timm's transformers


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}, "resnet18"),
        ({}, "resnet50"),
        ({"downsample_in_bottleneck": True}, "resnet50+first_stride"),
    ],
)
def test_resnets_of_transformers(transformers, options, name):
    settings = transformers.ResNetConfig(num_labels=10, **options)
    network = shaken(transformers.ResNetForImageClassification(settings))
    compared(network, network.state_dict(), f"torchvision:{name}")


TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name"),
    [({}, "vit_b_16+ln_eps_1e-12"), (TINY, "timm:deit_tiny_patch16_224+ln_eps_1e-12")],
    ids=["base", "tiny"],
)
def test_a_vision_transformer_of_transformers(transformers, options, name):
    """In the keys that its files have, which are not those that it has in memory."""
    settings = transformers.ViTConfig(num_labels=10, num_hidden_layers=12, **options)
    network = shaken(transformers.ViTForImageClassification(settings))
    state = {}
    for key, value in network.state_dict().items():
        key = key.replace("vit.layers.", "vit.encoder.layer.")
        key = re.sub(r"attention\.(q|k|v)_proj", lambda found: f"attention.attention.{KEPT[found[1]]}", key)
        key = key.replace("attention.o_proj", "attention.output.dense")
        key = key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        state[key] = value
    assert state.keys() != network.state_dict().keys()
    for keys in (state, network.state_dict()):
        compared(network, keys, name, 224)


KEPT = {"q": "query", "k": "key", "v": "value"}


def test_keys_of_mmpretrain():
    network = shaken(theirs("resnet18"))
    state = {
        key.replace("fc.", "head.fc.") if key.startswith("fc.") else f"backbone.{key}": value
        for key, value in network.state_dict().items()
    }
    compared(network, state, "torchvision:resnet18")


def test_what_keys_leave_open_computes_something_else():
    """Any two of the networks that a file of resnet18's keys may be."""
    state = shaken(small_stem(theirs("resnet18"))).state_dict()
    match = recognize(state, "weights.pth")
    logits, images = [], torch.rand(2, 3, 32, 32)
    for name in (match.architecture, *match.alternatives):
        with torch.device("meta"):
            network = build_model(name, (3, 32, 32), 10, [0.0] * 3, [1.0] * 3)
        network.load_state_dict(state | AS_IS, assign=True)
        with torch.no_grad():
            logits.append(network.eval()(images))
    assert len(logits) > 8
    for one, other in itertools.combinations(logits, 2):
        assert (one - other).abs().max() > 1e-3


def test_what_is_said_where_robustbench_is_not_installed(monkeypatch):
    """Of the keys of its own WideResNet, whose activations have parameters (Dai et al., 2021)."""
    for module in ("robustbench", "robustbench.model_zoo", "robustbench.model_zoo.models"):
        monkeypatch.setitem(sys.modules, module, None)
    with torch.device("meta"):
        wide = build_model("wrn_28_10", (3, 32, 32), 10, [0.0] * 3, [1.0] * 3).state_dict()
    state = {key: value for key, value in wide.items() if not key.startswith("normalize.")}
    state = {re.sub(r"^layer(\d)\.(\d+)", r"block\1.layer.\2", key): value for key, value in state.items()}
    state = {re.sub(r"^bn2", "bn1", key).replace("shortcut", "convShortcut"): v for key, v in state.items()}
    blocks = [f"block{block}.layer.{layer}." for block in (1, 2, 3) for layer in range(4)]
    for prefix in ("", *blocks):
        for name in ("alpha", "beta"):
            state[f"{prefix}activation.{name}"] = torch.zeros((), device="meta")
    said = (
        r"may be robustbench:cifar10/Linf/Dai2021Parameterizing: .*pip install 'robust-repsim\[robustbench\]'"
    )
    with pytest.raises(ValueError, match=said):
        recognize(state, "weights.pth")


@pytest.mark.matrix("vit_tiny_patch16_224", "efficientnet_b0")
@pytest.mark.parametrize(
    ("file", "side", "name", "open_"),
    [
        ("vit_tiny_patch16_224", 32, "timm:deit_tiny_patch16_224", set()),
        ("vit_small_patch16_224", 384, "timm:deit_small_patch16_224", set()),
        ("convnext_tiny", 64, "timm:convnext_tiny", set()),
        ("swin_tiny_patch4_window7_224", 224, "timm:swin_tiny_patch4_window7_224", set()),
        ("resnet10t", 64, "timm:resnet10t", set()),
        (
            "efficientnet_b0",
            64,
            "timm:efficientnet_b0",
            {"efficientnet_blur_b0", "tf_efficientnet_b0"},
        ),
    ],
)
def test_networks_of_timm(file, side, name, open_):
    """By their keys alone; of those that compute the same, the first that timm lists is named."""
    sized = {"img_size": side} if file.startswith("vit") else {}
    network = shaken(timm.create_model(file, num_classes=10, **sized))
    match = compared(network, network.state_dict(), name, side)
    assert {other.removeprefix("timm:") for other in match.alternatives if "+" not in other} == open_
