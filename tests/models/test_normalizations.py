"""Normalisations by name and by numbers: what they are, and how wrong ones are refused."""

import re

import pytest

from repsim.models.normalizations import ANY_CHANNELS, PER_CHANNEL, find_normalization, in_numbers, known
from repsim.support.compat import import_robustness


def test_published_names_have_the_numbers_of_other_packages():
    cifar = import_robustness("datasets").CIFAR()
    assert PER_CHANNEL["cifar10_pytorch_cifar"][0] == pytest.approx(cifar.mean.tolist())
    assert PER_CHANNEL["cifar10_pytorch_cifar"][1] == pytest.approx(cifar.std.tolist())
    timm = pytest.importorskip("timm.data.constants")
    assert PER_CHANNEL["imagenet"] == (timm.IMAGENET_DEFAULT_MEAN, timm.IMAGENET_DEFAULT_STD)
    assert PER_CHANNEL["clip"] == (timm.OPENAI_CLIP_MEAN, timm.OPENAI_CLIP_STD)
    assert find_normalization("0.5").of_channels(3).mean == timm.IMAGENET_INCEPTION_MEAN


def test_names_are_of_images_with_as_many_channels():
    assert "mnist" in known(1)
    assert "imagenet" in known(3)
    assert set(known(1)) & set(known(3)) == set(known(4)) == set(ANY_CHANNELS)
    for channels in (1, 3):
        for name in known(channels):
            found = find_normalization(name).of_channels(channels)
            assert len(found.mean) == len(found.std) == channels
            assert all(0 <= mean < 1 for mean in found.mean)
            assert all(0 < std <= 1 for std in found.std)


@pytest.mark.parametrize(
    "given",
    [
        "0.4914 0.4822 0.4465 / 0.2023 0.1994 0.2010",
        "0.4914, 0.4822, 0.4465/0.2023,0.1994,0.2010",
        "(0.4914, 0.4822, 0.4465) / (0.2023, 0.1994, 0.2010)",
        {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
        "125.307 122.961 113.8575 / 51.5865 50.847 51.255",
    ],
)
def test_numbers_may_be_written(given):
    found = find_normalization(given).of_channels(3)
    mean, std = PER_CHANNEL["cifar10_pytorch_cifar"]
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(std)
    assert ("255" in found.note) == ("125" in str(given))
    assert find_normalization(found.name).std == pytest.approx(std)  # what it is called, it is chosen by


def test_one_number_stands_for_all_channels():
    found = find_normalization("0.5 / 0.25").of_channels(3)
    assert in_numbers(found.mean, found.std) == "mean 0.5 0.5 0.5, std 0.25 0.25 0.25"
    assert find_normalization("0.1 0.2 0.3 / 1").of_channels(3).std == (1, 1, 1)
    assert find_normalization(0.5).of_channels(1).std == (0.5,)  # as YAML reads it
    assert find_normalization("0 / 255").of_channels(2).std == (1, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("imagnet", "unknown normalization 'imagnet'; did you mean 'imagenet'"),
        ("0.49 0.48 0.45", "numbers are written as mean / std"),
        ("0.5 0.5 / 0.2 0.2 0.2", "2 means and 3 deviations"),
        ("0.5 / 0", "deviations must be above 0"),
        ("0.5 / -1", "deviations must be above 0"),
        ("0.5 / 127", "mean and std are of pixels up to 255, or both up to 1"),
        ("125 / 0.2", "mean and std are of pixels up to 255, or both up to 1"),
        ({"mean": [0.5]}, "as a mapping has mean and std, not mean"),
        ({"mean": [0.5], "std": "much"}, "takes numbers, not ['much']"),
        ({"mean": [0.5], "std": [float("inf")]}, "takes numbers, not [inf]"),
    ],
)
def test_what_is_none_is_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_normalization(given)


def test_another_number_of_channels_is_refused_with_what_to_write():
    message = "imagenet has 3 channels, the images have 1 channel: choose one of data, none, 0.5, mnist"
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        find_normalization("imagenet").of_channels(1)
    written = re.search(r'normalization="(.*)"', str(error.value))[1]
    assert len(find_normalization(written).of_channels(1).mean) == 1
    with pytest.raises(ValueError, match="has 2 channels, the images have 3 channels"):
        find_normalization("0.1 0.2 / 1 1").of_channels(3)
