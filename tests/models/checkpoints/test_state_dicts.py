"""State dicts of ours, of torchvision and of well-known code, in every wrapping, are the same networks."""

import argparse
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from toy_networks import randomized

from repsim.models.checkpoints import read_checkpoint
from repsim.support import artifacts
from repsim.support.compat import import_robustness, torchvision


def same(rebuilt, read, model, images):
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(images), model(images), rtol=1e-4, atol=1e-5)


# wrappings

WRAPPINGS = {
    "plain": lambda state: state,
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "inside": lambda state: {f"model.{key}": value for key, value in state.items()},
    **{
        name: lambda state, name=name: {name: {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
        for name in ("state_dict", "model", "net", "model_state_dict")
    },
}


@pytest.mark.matrix("DataParallel", "state_dict")
@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrappings(tmp_path, small, rebuilt, pixels, bare, wrapping, zipped):
    model, path = small(mean=0.0, std=1.0), tmp_path / "weights"
    torch.save(WRAPPINGS[wrapping](bare(model)), path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    assert (read.architecture, read.num_classes, read.image_shape) == ("wrn_tiny", 10, (3, 32, 32))
    assert (read.mean, read.std, read.accuracy, read.epsilon) == (None, None, None, None)
    assert read.checksum == artifacts.checksum(path)
    assert not any(key.startswith("normalize.") for key in read.weights)
    assert ("which was left out" in " ".join(read.notes)) == (wrapping != "plain")
    same(rebuilt, read, model, pixels())


@pytest.mark.matrix
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_safetensors_in_whatever_order_and_by_whatever_name(tmp_path, small, rebuilt, pixels, suffix):
    model, path = small("resnet_tiny", (1, 16, 16), 7), tmp_path / f"weights{suffix}"
    save_file(model.state_dict(), path)
    read = read_checkpoint(path)
    assert (read.format, read.architecture, read.num_classes) == ("state dict", "resnet_tiny", 7)
    assert read.image_shape == (1, 32, 32)
    assert read.mean == pytest.approx((0.4,))
    same(rebuilt, read, model, pixels((1, 16, 16)))


# architectures


@pytest.mark.matrix("resnet_tiny", "mlp", "lenet", "wrn_16_1")
@pytest.mark.parametrize(
    ("name", "shape", "classes", "known"),
    [
        ("resnet_tiny", (1, 16, 16), 10, False),
        ("resnet_tiny_deep", (1, 16, 16), 4, False),
        ("resnet_tiny_d14_w4", (3, 32, 32), 10, False),
        ("resnet20_w1", (3, 32, 32), 10, False),
        ("wrn_16_1", (1, 32, 32), 100, False),
        ("vgg_tiny", (3, 16, 16), 10, False),
        ("mlp", (1, 16, 16), 10, True),
        ("mlp", (3, 32, 32), 10, True),
        ("vit_tiny", (1, 16, 16), 10, True),
        ("lenet", (1, 28, 28), 10, True),
        ("lenet", (3, 32, 32), 5, True),
        ("tiny10", (3, 32, 32), 10, False),
        ("shufflenet_v2_x0_5", (3, 224, 224), 9, False),
    ],
)
def test_an_architecture_is_recognised(tmp_path, small, rebuilt, pixels, bare, name, shape, classes, known):
    model = small(name, shape, classes, 0.0, 1.0)
    torch.save(bare(model), tmp_path / "weights.pt")
    read = read_checkpoint(tmp_path / "weights.pt")
    assert (read.architecture, read.num_classes) == (name, classes)
    assert read.image_shape[0] == shape[0]
    _, height, width = read.image_shape
    size = f"The size of its images is not in the file; {height} × {width} is usual."
    assert (size in read.notes) == (not known)
    if known:
        assert read.image_shape == shape
    same(rebuilt, read, model, pixels(read.image_shape, 2))
    assert read_checkpoint(tmp_path / "weights.pt", image_shape=(9, *shape[1:])).image_shape == shape
    assert read_checkpoint(tmp_path / "weights.pt", architecture=name).architecture == name


def test_images_of_another_size_than_the_weights_are_for(tmp_path, small):
    torch.save(small("mlp", (1, 16, 16)).state_dict(), tmp_path / "weights.pt")
    message = f"{tmp_path / 'weights.pt'} (mlp) takes images of 16 × 16 pixels, not of 32 × 32."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_checkpoint(tmp_path / "weights.pt", image_shape=(1, 32, 32))


@pytest.mark.parametrize(
    ("name", "changed", "settled_by"),
    [
        ("mobilenet_v2", "mobilenet_v2+cifar_strides", "file"),
        # torchvision's constructor sets it by itself where it begins from published weights
        ("googlenet", "googlenet+transform_input", ""),
    ],
)
def test_what_leaves_no_trace_is_tried_of_a_network_that_the_file_names(
    tmp_path, small, bare, name, changed, settled_by
):
    path = tmp_path / "weights.pt"
    torch.save({"arch": name, "state_dict": bare(small(name))}, path)
    read = read_checkpoint(path)
    assert (read.architecture, read.settled_by) == (name, settled_by)
    assert changed in read.alternatives
    (note,) = (note for note in read.notes if note.startswith(f"The file says that it is {name}"))
    assert f"({changed})" in note


def test_weights_that_are_not_finite_are_told(tmp_path, small):
    weights = small().state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    assert not any("finite" in note for note in read_checkpoint(tmp_path / "weights.pt").notes)
    weights["fc.weight"][0, 0] = torch.nan
    torch.save(weights, tmp_path / "weights.pt")
    said = "Not all of its weights are finite (fc.weight): its training diverged."
    assert said in read_checkpoint(tmp_path / "weights.pt").notes


def test_what_the_keys_leave_open_is_told_and_settled_by_a_name(tmp_path, small, rebuilt, pixels, bare):
    model, path = small("preactresnet18_w8+raw_shortcut", mean=0.0, std=1.0), tmp_path / "weights.pt"
    torch.save(bare(model), path)
    read = read_checkpoint(path)
    assert read.architecture == "preactresnet18_w8"
    assert "shortcuts of x, not of relu(bn(x)) (preactresnet18_w8+raw_shortcut)" in read.left_open
    named = read_checkpoint(path, architecture="preactresnet18_w8+raw_shortcut")
    assert named.left_open == ""
    same(rebuilt, named, model, pixels())
    with torch.no_grad():
        assert (rebuilt(read)(pixels()) - model(pixels())).abs().max() > 0.01


@pytest.mark.parametrize(
    ("said", "settled_by"), [("WideResNet-10-1", ""), ("wrn_10_1", ""), ("mobilenet_v3_small", "file")]
)
def test_a_name_in_the_file_settles_what_a_library_defines(tmp_path, small, bare, said, settled_by):
    model = small(said) if settled_by else small("wrn_10_1")
    torch.save({"arch": said, "state_dict": bare(model)}, tmp_path / "weights.pt")
    read = read_checkpoint(tmp_path / "weights.pt")
    assert read.architecture == (said if settled_by else "wrn_10_1")
    assert read.settled_by == settled_by
    assert ("wrn_10_1+silu" in read.alternatives) == (not settled_by)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("name", "drop"), [("densenet121", None), ("shufflenet_v2_x0_5", "num_batches_tracked")]
)
def test_files_of_older_torchvisions(tmp_path, rebuilt, pixels, name, drop):
    """Dots in the names of dense layers; no batch counters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomized(torchvision.models.get_model(name, weights=None, num_classes=5))
    state = model.state_dict()
    if drop:
        state = {key: value for key, value in state.items() if drop not in key}
    older = {
        re.sub(r"(layer\d+\.)(norm|conv)(\d)\.", r"\1\2.\3.", key): value for key, value in state.items()
    }
    assert list(older) != list(model.state_dict())
    torch.save(older, tmp_path / "weights.pt")
    read = read_checkpoint(tmp_path / "weights.pt")
    assert read.architecture in (name, f"torchvision:{name}")
    counters = re.compile(r"^\d+ batch counters of BatchNorm are not in the file, and were set to 0\.$")
    assert any(counters.match(note) for note in read.notes) == (drop is not None)
    same(rebuilt, read, model, pixels((3, 64, 64), 2))


# well-known code, written down again from its papers and key names


class WideBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

    def forward(self, x):
        active = F.relu(self.bn1(x))
        around = x if self.convShortcut is None else self.convShortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + around


class Stage(nn.Module):
    def __init__(self, before, after, stride, count):
        super().__init__()
        blocks = [WideBlock(before, after, stride), *(WideBlock(after, after, 1) for _ in range(count - 1))]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class Wide(nn.Module):
    """The WideResNet of TRADES and of the CKA paper; in the former with a stage that nothing calls."""

    def __init__(self, depth, factor, unused):
        super().__init__()
        count, widths = (depth - 4) // 6, [16, 16 * factor, 32 * factor, 64 * factor]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = Stage(16, widths[1], 1, count)
        if unused:
            self.sub_block1 = Stage(16, widths[1], 1, count)
        self.block2, self.block3 = (
            Stage(widths[1], widths[2], 2, count),
            Stage(widths[2], widths[3], 2, count),
        )
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], 10)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


@pytest.mark.matrix("True-2")
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("unused", [False, True])
def test_the_wide_resnet_of_the_cka_paper_and_of_trades(tmp_path, rebuilt, pixels, factor, unused):
    model = randomized(Wide(10, factor, unused))
    torch.save({"state_dict": nn.DataParallel(model).state_dict(), "epoch": 2}, tmp_path / "wrn.pt")
    read = read_checkpoint(tmp_path / "wrn.pt")
    assert (read.architecture, read.epoch) == (f"wrn_10_{factor}", 2)
    assert (
        "Keys are those of the WideResNet of TRADES and of the CKA paper; they were given our names."
        in read.notes
    )
    same(rebuilt, read, model, pixels())


class PreActivation(nn.Module):
    """The pre-activation ResNet-18 of the robust overfitting code."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(512)
        before = 64
        for index, width in enumerate((64, 128, 256, 512), start=1):
            blocks = [
                PreActivationBlock(before, width, 1 if index == 1 else 2),
                PreActivationBlock(width, width, 1),
            ]
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
            before = width
        self.linear = nn.Linear(512, 10)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.avg_pool2d(F.relu(self.bn(x)), 4).flatten(1))


class PreActivationBlock(WideBlock):
    def __init__(self, before, after, stride):
        super().__init__(before, after, stride)
        if self.convShortcut is not None:
            self.shortcut = nn.Sequential(self.convShortcut)
        self.convShortcut = None

    def forward(self, x):
        active = F.relu(self.bn1(x))
        around = self.shortcut(active) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + around


def test_the_preactivation_resnet_of_others(tmp_path, rebuilt, pixels):
    model = randomized(PreActivation())
    torch.save(model.state_dict(), tmp_path / "model_best.pth")
    read = read_checkpoint(tmp_path / "model_best.pth")
    assert read.architecture == "preactresnet18"
    same(rebuilt, read, model, pixels(count=2))


def test_the_resnet_of_pytorch_cifar_pools_images_of_any_size(tmp_path, rebuilt, pixels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomized(import_robustness("cifar_models").resnet18(num_classes=10)).eval()
    torch.save(model.state_dict(), tmp_path / "ckpt.pth")
    assert read_checkpoint(tmp_path / "ckpt.pth").architecture == "robustness:cifar/resnet18"
    larger = read_checkpoint(tmp_path / "ckpt.pth", image_shape=(3, 64, 64))
    assert (larger.architecture, larger.image_shape) == ("resnet18", (3, 64, 64))
    same(rebuilt, larger, model, pixels())  # at the size that theirs takes


def test_the_cifar_resnet_of_others(tmp_path, small, bare):
    model = small("resnet20_w1")
    theirs = {re.sub(r"^fc\.", "linear.", key): value for key, value in bare(model).items()}
    torch.save(theirs, tmp_path / "resnet20.th")
    read = read_checkpoint(tmp_path / "resnet20.th")
    assert read.architecture == "resnet20_w1"
    assert torch.equal(read.weights["fc.bias"], theirs["linear.bias"])


# what else a file says


@pytest.mark.parametrize(
    ("recorded", "accuracy"),
    [
        ({"nat_prec1": torch.tensor(91.5)}, 0.915),
        ({"acc": 95.2}, 0.952),
        ({"accuracy": 0.93}, 0.93),
        ({"acc": np.float64(95.2)}, 0.952),
        ({"adv_prec1": torch.tensor(48.0)}, None),
        ({"best_acc1": torch.tensor(77.0)}, None),  # the best so far need not be of this epoch
        ({"acc": "high"}, None),
        ({"acc": 951}, None),
    ],
)
def test_accuracy(tmp_path, small, recorded, accuracy):
    torch.save({"net": small().state_dict(), **recorded}, tmp_path / "ckpt.pth")
    expected = None if accuracy is None else pytest.approx(accuracy)
    assert read_checkpoint(tmp_path / "ckpt.pth").accuracy == expected


def test_settings_of_a_training_script(tmp_path, small):
    args = argparse.Namespace(epsilon="8/255", norm="l_inf", lr=0.1)
    torch.save({"state_dict": small().state_dict(), "args": args, "epoch": 90}, tmp_path / "model.pt")
    read = read_checkpoint(tmp_path / "model.pt")
    assert (read.epsilon, read.norm, read.epoch) == (8 / 255, "linf", 90)
