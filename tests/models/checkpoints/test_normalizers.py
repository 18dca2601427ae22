"""Normalisers inside files, whatever they are called, are the file's own normalisation."""

import re

import dill
import pytest
import torch
from torch import nn

from repsim.models.checkpoints import convert, read_checkpoint

MEAN, STD = torch.tensor([0.49, 0.48, 0.44]), torch.tensor([0.20, 0.19, 0.21])
NAMES = (
    *(("mu", "sigma"), ("mean", "std"), ("pixel_mean", "pixel_std"), ("normalizer.mean", "normalizer.std")),
    *(("normalize.mean", "normalize.std"), ("normalizer.new_mean", "normalizer.new_std")),
    *(("norm.mean", "norm.std"), ("data_preprocessor.mean", "data_preprocessor.std"), ("0.mean", "0.std")),
)


@pytest.fixture
def saved(tmp_path, small, bare):
    """A network that takes pixels as they are, and a file of its weights among others."""
    network = small(mean=0.0, std=1.0)

    def save(more, prefix=""):
        weights = {prefix + key: value for key, value in bare(network).items()}
        torch.save({**more, **weights}, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    save.network = network
    return save


def normalized(images, mean=MEAN, std=STD):
    return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def check(path, rebuilt, saved, images, inner):
    read = read_checkpoint(path)
    assert read.architecture == "wrn_tiny"
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(images), saved.network(inner))
    return read


@pytest.mark.parametrize(("mean", "std"), NAMES, ids=[name for name, _ in NAMES])
@pytest.mark.parametrize("prefix", ["", "model.", "1.", "model.module."])
def test_a_normaliser_is_taken_over(saved, rebuilt, pixels, mean, std, prefix):
    path = saved({mean: MEAN.view(1, 3, 1, 1), std: STD.view(1, 3, 1, 1)}, prefix)
    read = check(path, rebuilt, saved, pixels(), normalized(pixels()))
    assert read.mean == pytest.approx(MEAN.tolist())
    ours = mean in ("normalize.mean", "normalizer.new_mean")
    assert ours or f"Its normaliser is {mean} and {std}." in read.notes


def test_behind_wrappers_of_both(saved, rebuilt, pixels):
    state = torch.load(saved({"0.mean": MEAN, "0.std": STD}, "1.model."))
    torch.save({f"module.{key}": value for key, value in state.items()}, path := saved({}))
    check(path, rebuilt, saved, pixels(), normalized(pixels()))


def test_levels_of_255(saved, rebuilt, pixels):
    path = saved({"pixel_mean": MEAN * 255, "pixel_std": STD * 255})
    read = check(path, rebuilt, saved, pixels(), normalized(pixels()))
    assert "Its normaliser is pixel_mean and pixel_std, in levels of 255." in read.notes
    path = saved({"pixel_mean": MEAN * 255, "pixel_std": torch.ones(3)})
    check(path, rebuilt, saved, pixels(), 255 * pixels() - 255 * MEAN.view(1, 3, 1, 1))


class Plain(nn.Module):
    """As locuslab/smoothing's, whose numbers are no buffers; or buffers that are not saved."""

    def __init__(self, kind):
        super().__init__()
        for name, value in (("means", MEAN), ("sds", STD)):
            if kind == "buffer":
                self.register_buffer(name, value.view(3, 1, 1), persistent=False)
            else:
                setattr(self, name, value if kind == "tensor" else value.tolist())

    def forward(self, images):
        return images


@pytest.mark.parametrize("kind", ["tensor", "list", "buffer"])
def test_of_a_whole_network_also_what_is_not_among_its_weights(tmp_path, rebuilt, saved, pixels, kind):
    whole = nn.Sequential(Plain(kind), saved.network)
    torch.save(whole, tmp_path / "whole.pt", pickle_module=dill)
    read = read_checkpoint(tmp_path / "whole.pt", trust_pickle=True)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(read)(pixels()), saved.network(normalized(pixels())))
    convert(tmp_path / "whole.pt", tmp_path / "whole.safetensors", trust_pickle=True)
    assert read_checkpoint(tmp_path / "whole.safetensors").mean == pytest.approx(read.mean)


def test_one_value_for_all_channels(saved, rebuilt, pixels):
    path = saved({"mean": torch.tensor(0.5), "std": torch.tensor(0.25)})
    read = check(path, rebuilt, saved, pixels(), (pixels() - 0.5) / 0.25)
    assert read.std == (0.25, 0.25, 0.25)


def test_two_in_turn(saved, rebuilt, pixels):
    path = saved({"0.mean": MEAN, "0.std": STD, "1.norm.mean": MEAN / 2, "1.norm.std": STD * 3}, "1.net.")
    check(path, rebuilt, saved, pixels(), normalized(normalized(pixels()), MEAN / 2, STD * 3))


def test_beside_the_weights(saved, rebuilt, pixels, tmp_path):
    state = torch.load(saved({}))
    torch.save(
        {"state_dict": state, "mean": MEAN.tolist(), "args": {"std": [9.0, 9.0, 9.0]}}, path := saved({})
    )
    assert read_checkpoint(path).mean is None  # of one without the other nothing is known
    torch.save({"state_dict": state, "args": {"mean": MEAN.tolist(), "std": STD.tolist()}}, path)
    read = check(path, rebuilt, saved, pixels(), normalized(pixels()))
    assert "Its mean and deviation are from the file, beside its weights." in read.notes
    levels = {"mean": (MEAN * 255).tolist(), "std": (STD * 255).tolist()}
    torch.save({"state_dict": state, **levels}, path)
    check(path, rebuilt, saved, pixels(), normalized(pixels()))


@pytest.mark.parametrize(
    "more",
    [
        {"mean": MEAN},
        {"mean": MEAN, "std": -STD},
        {"mean": torch.zeros(5), "std": torch.ones(5)},
        {"mean": torch.zeros(3, 3), "std": torch.ones(3, 3)},
        {"norm.mean": MEAN, "norm.std": STD, "norm.scale": MEAN},
        {"layer1.0.mean": MEAN, "layer1.0.std": STD},
    ],
    ids=["no deviation", "negative", "five", "a matrix", "scaled too", "inside"],
)
def test_what_need_not_be_a_normaliser_is_refused_with_its_name(saved, more):
    with pytest.raises(ValueError, match=rf"unexpected: {re.escape(next(iter(more)))}"):
        read_checkpoint(saved(more))


def test_colours_in_the_order_of_others(saved):
    path = saved({"pixel_mean": torch.tensor([103.53, 116.28, 123.675]), "pixel_std": torch.ones(3)})
    with pytest.raises(ValueError, match=r"ImageNet's mean in the order blue, green, red: its network takes"):
        read_checkpoint(path)
    turned = torch.load(path)
    turned["conv1.weight"] = turned["conv1.weight"].flip(1)
    torch.save(turned | {key: turned[key].flip(0) for key in ("pixel_mean", "pixel_std")}, path)
    assert read_checkpoint(path).mean == pytest.approx((0.485, 0.456, 0.406))


def test_of_other_channels_than_the_network(tmp_path, small, bare):
    torch.save({**bare(small(shape=(1, 32, 32))), "mu": MEAN, "sigma": STD}, path := tmp_path / "weights.pt")
    message = (
        f"{path} normalises 3 channels, and its network takes images of 1: leave the normaliser out of "
        "what is saved."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_checkpoint(path)
