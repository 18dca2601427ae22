"""Every architecture's name, shape, seed and size, and what is said of wrong ones."""

import re

import pytest
import torch
from torch import nn

from repsim.models import ARCHITECTURES, build_model, is_architecture
from repsim.support.compat import import_robustness, torchvision

SMALL = [
    *("resnet_tiny", "resnet_tiny_deep", "wrn_tiny", "vgg_tiny", "mlp", "vit_tiny", "wrn_10_1"),
    *("resnet8_w1_option_a", "preactresnet50_no_final_bn_w8", "preactresnet18_bias_w8", "small_cnn"),
    *("preactresnet18_he_w8", "dm_preactresnet18_w8+silu", "mnist_net", "small_cnn_cifar"),
    *("mnist_net_strided", "resnet11_w1_bottleneck", "preresnet11_w1_bottleneck"),
]
NAMES = [
    *(name for name, known in ARCHITECTURES.items() if re.fullmatch(known.pattern, name)),  # but wrn_D_K, …
    "wrn_28_4",
    "resnet20_w2",
    "resnet_tiny_d14",
    "resnet_tiny_w4",
]
MEAN, STD = [0.5, 0.5, 0.5], [0.2, 0.2, 0.2]


def build(name, shape=(3, 32, 32), classes=10, **options):
    return build_model(name, shape, classes, [0.5] * shape[0], [0.2] * shape[0], **options)


def outline(name, shape=(3, 32, 32), classes=10):
    """A network of shapes without numbers, so that the large ones cost nothing."""
    with torch.device("meta"):
        return build(name, shape, classes)


def size(model):
    return sum(weight.numel() for weight in model.parameters())


def logits_shape(model, shape):
    device = next(model.parameters()).device
    return tuple(model.eval()(torch.zeros(2, *shape, device=device)).shape)


@pytest.mark.matrix("3-resnet_tiny", "3-vgg_tiny", "1-mlp", "3-vit_tiny", "3-resnet18", "3-densenet121")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_output_shape(name, channels):
    shape = (channels, 32, 32)
    assert logits_shape(outline(name, shape, 7), shape) == (2, 7)


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", SMALL)
def test_small_networks_take_small_images_and_learn(name):
    model = build(name, (1, 16, 16), 5)
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (6, 5)
    nn.functional.cross_entropy(logits, torch.arange(6) % 5).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.matrix("resnet_tiny", "vit_tiny")
@pytest.mark.parametrize("name", [*SMALL, "torchvision:resnet18", "densenet121"])
def test_seed_decides_the_weights_and_leaves_the_callers_random_state_alone(name):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, again, other = build(name, seed=3), build(name, seed=3), build(name, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_callers_random_state_is_left_alone_when_building_fails():
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="6n"):
        build("wrn_11_1")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("wrn_28_10", 36_479_194),
        ("wrn_28_4", 5_849_050),
        ("resnet18", 11_173_962),
        ("resnet50", 23_520_842),
        ("resnet20_w1", 272_474),
        ("resnet110_w1_option_a", 1_727_962),
        ("lenet", 62_006),
        ("tiny10", 86_778),
        ("resnext50_32x4d", 22_979_904 + 20_490 - 7_680),  # the stem has 3 × 3 in place of 7 × 7
        ("wide_resnet50_2", 66_834_240 + 20_490 - 7_680),
    ],
)
def test_published_sizes(name, parameters):
    assert size(outline(name)) == parameters


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet_tiny", 8), ("resnet_tiny_d14", 14), ("resnet_tiny_deep", 20)]
)
def test_a_cifar_resnet_is_as_deep_as_its_name_says(name, depth):
    layers = [
        m
        for m in outline(name).modules()
        if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)
    ]
    assert len(layers) == depth


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_cifar_stem(name):
    model = outline(name)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.bias) == ((3, 3), (1, 1), None)
    assert isinstance(model.maxpool, nn.Identity)
    assert model.layer1(model.conv1(torch.zeros(1, 3, 32, 32, device="meta"))).shape[-2:] == (32, 32)


def test_densenet_stem():
    model = outline("densenet121")
    assert (model.features.conv0.kernel_size, model.features.conv0.stride) == ((3, 3), (1, 1))
    assert isinstance(model.features.pool0, nn.Identity)


@pytest.mark.matrix("resnet18", "vgg11_bn")
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "vgg11_bn", "densenet121", "mobilenet_v2"])
def test_keys_are_torchvisions(name):
    with torch.device("meta"):
        native = set(torchvision.models.get_model(name, weights=None, num_classes=10).state_dict())
    native = {key for key in native if not (name.startswith("vgg") and key.startswith("classifier."))}
    if name.startswith("vgg"):
        native |= {"classifier.weight", "classifier.bias"}
    assert set(outline(name).state_dict()) == native | {"normalize.mean", "normalize.std"}


def test_weights_of_torchvision_load_strictly():
    native = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=10).state_dict()
    model = build("shufflenet_v2_x0_5")
    neutral = {"normalize.mean": torch.zeros(3, 1, 1), "normalize.std": torch.ones(3, 1, 1)}
    model.load_state_dict({**native, **neutral})
    assert torch.equal(model.fc.weight, native["fc.weight"])


def test_torchvision_by_name_and_by_prefix():
    assert outline("torchvision:resnet18").conv1.kernel_size == (7, 7)  # ours has the CIFAR stem
    assert (
        type(outline("mobilenet_v2")).__name__
        == type(outline("torchvision:mobilenet_v2")).__name__
        == "MobileNetV2"
    )


@pytest.mark.matrix("googlenet")
@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 96)])
def test_networks_with_auxiliary_heads_give_plain_logits(name, side):
    model = outline(name, (3, side, side))
    assert logits_shape(model, (3, side, side)) == (2, 10)
    assert model.train()(torch.zeros(2, 3, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_tyni", "unknown model 'resnet_tyni'; did you mean 'resnet_tiny' or "),
        ("WRN_D_K", "unknown model 'WRN_D_K'; did you mean 'wrn_D_K'"),
        ("densenet12", "unknown model 'densenet12'; did you mean 'densenet121'"),
        ("torchvision:resnt18", "unknown model 'torchvision:resnt18'"),
        ("resnet_tiny_w", "unknown model 'resnet_tiny_w'; did you mean 'resnet_tiny'"),
        ("resnet20_w0", "a CIFAR ResNet is at least 1 channel wide, not 0."),
        ("resnet20_w", "unknown model 'resnet20_w'; did you mean 'resnet20_wK'"),
        (
            "robustness:cifar/resnet81",
            "unknown model of robustness 'cifar/resnet81'; did you mean 'cifar/resnet18'",
        ),
        ("robustness:resnet18", "unknown model of robustness 'resnet18'; did you mean 'cifar/resnet18'"),
        ("resnet_tiny_d9", "a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), not 9."),
        ("resnet_tiny_d2", "a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), not 2."),
        ("resnet_tiny_w0", "a CIFAR ResNet is at least 1 channel wide, not 0."),
        ("resnet164_w0_bottleneck", "a CIFAR ResNet is at least 1 channel wide, not 0."),
        (
            "preresnet55_w1_bottleneck",
            "a CIFAR ResNet of bottlenecks has 9n + 2 layers (11, 20, 29, …), not 55.",
        ),
        ("wrn_28_0", "a WideResNet is at least 1 × as wide as its base, not 0 ×."),
        ("wrn_27_1", "a WideResNet has 6n + 4 layers (10, 16, 22, 28, …), not 27."),
        ("wrn_4_1", "a WideResNet has 6n + 4 layers (10, 16, 22, 28, …), not 4."),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(name)


@pytest.mark.parametrize(("height", "width"), [(16, 12), (18, 18)])
def test_vision_transformer_on_odd_images(height, width):
    message = f"vit_tiny needs square images whose side 4 divides, not {height} × {width}."
    with pytest.raises(ValueError, match=message):
        build("vit_tiny", (1, height, width))


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("lenet", 15, "lenet needs images of at least 16 × 16 pixels, not 15 × 15."),
        ("tiny10", 26, "tiny10 needs images of at least 27 × 27 pixels, not 26 × 26."),
        (
            "robustness:cifar/vgg11",
            64,
            "robustness' cifar/vgg11 takes images of 32 × 32 pixels, not 64 × 64.",
        ),
        (
            "robustness:cifar/resnet18",
            16,
            "robustness' cifar/resnet18 takes images of 32 × 32 pixels, not 16 × 16.",
        ),
        ("vit_b_16", 40, "torchvision's vit_b_16 and images of 40 pixels: "),
    ],
)
def test_images_of_sizes_that_a_network_does_not_take(name, side, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build(name, (3, side, side))


@pytest.mark.parametrize(("name", "side"), [("lenet", 16), ("lenet", 28), ("tiny10", 27)])
def test_smallest_images(name, side):
    assert logits_shape(outline(name, (1, side, side)), (1, side, side)) == (2, 10)


def test_a_wide_resnet50_is_as_wide_as_its_name_says():
    middle = [
        outline(name).layer1[0].conv2.out_channels
        for name in ("resnet50", "wide_resnet50_2", "wide_resnet50_4")
    ]
    assert middle == [64, 128, 256]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("robustness:cifar/resnet18", (3, 32, 32)),
        ("robustness:cifar/resnet18", (3, 64, 64)),
        ("robustness:cifar/vgg11", (3, 32, 32)),
        ("robustness:cifar/densenet_cifar", (3, 32, 32)),
        ("robustness:imagenet/resnet18", (3, 64, 64)),
        ("robustness:imagenet/wide_resnet50_4", (3, 64, 64)),
    ],
)
def test_networks_of_robustness(name, shape):
    """Built by the package itself, by its own name."""
    model = outline(name, shape, 7)
    assert logits_shape(model, shape) == (2, 7)
    library, theirs = name.removeprefix("robustness:").split("/")
    options = {"feat_scale": 4} if shape == (3, 64, 64) and library == "cifar" else {}
    with torch.device("meta"):
        native = getattr(import_robustness(f"{library}_models"), theirs)(num_classes=7, **options)
    own = {key: value.shape for key, value in model.state_dict().items() if not key.startswith("normalize.")}
    assert own == {key: value.shape for key, value in native.state_dict().items()}


def test_networks_of_robustness_refuse_grey_images():
    message = r"^robustness' cifar/resnet18 takes 3 channels, the images have 1\.$"
    with pytest.raises(ValueError, match=message):
        build("robustness:cifar/resnet18", (1, 32, 32))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("wrn_28_10", True),
        ("resnet20_w5", True),
        ("mobilenet_v2", True),
        ("torchvision:resnet18", True),
        ("torchvision:resnet19", False),
        ("robustness:cifar/resnet18", True),
        ("timm:resnet18", True),
        ("resnet20_wK", False),
        ("cifar/resnet18", False),
        ("elsewhere:resnet18", False),
    ],
)
def test_whether_a_name_is_an_architecture(name, known):
    assert is_architecture(name) == known


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.2] * 3), ([0.5] * 3, [0.2])])
def test_mean_and_std_of_the_wrong_length(mean, std):
    with pytest.raises(ValueError, match=re.escape(f"one value per channel (3), got {mean} and {std}.")):
        build_model("mlp", (3, 8, 8), 10, mean, std)
