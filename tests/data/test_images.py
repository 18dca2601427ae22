"""Images as their users have them become one tensor of pixels in [0, 1], or are refused in words."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, SubsetRandomSampler, TensorDataset

from repsim.data import (
    Split,
    as_images,
    as_split,
    batches_of_images,
    images_and_labels,
    is_one_shot,
    labelled_images,
)

IMAGES = torch.rand(10, 3, 6, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 3
PAIRS = TensorDataset(IMAGES, LABELS)
RANGE = "Models normalise inside: give them raw pixels, divided by 255 when they are bytes."


def batched(make):
    return [make(images) for images in IMAGES.split(4)]


class Again:
    """Batches that can be gone through again, and nothing else."""

    def __iter__(self):
        return iter(IMAGES.split(4))


TAKEN = {
    "tensor": IMAGES,
    "channels last in memory": IMAGES.to(memory_format=torch.channels_last),
    "array": IMAGES.numpy(),
    "big-endian array": IMAGES.numpy().astype(">f4"),
    "loader of images and labels": DataLoader(PAIRS, batch_size=4),
    "loader of images": DataLoader(IMAGES, batch_size=4),
    "batches": Again(),
    "tuples": batched(lambda images: (images, {"boxes": 1}, 3)),
    "arrays": batched(lambda images: images.numpy()),
    "mappings": batched(lambda images: {"pixel_values": images, "mask": images}),
    "mappings with another name": batched(lambda images: {"photo": images, "labels": torch.zeros(3)}),
    "one mapping": {"image": IMAGES},
    "one batch empty": [IMAGES[:0], IMAGES],
}


@pytest.mark.parametrize("source", TAKEN.values(), ids=TAKEN)
def test_what_is_taken_for_images(source):
    found = as_images(source)
    assert torch.equal(found, IMAGES)
    assert torch.equal(torch.cat(list(batches_of_images(source))), IMAGES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_stay_as_they_are(dtype):
    images = IMAGES.to(dtype, memory_format=torch.channels_last)
    found = as_images(images)
    assert found.dtype == dtype
    assert found.data_ptr() == images.data_ptr()
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_graph_is_left_behind():
    assert not as_images(IMAGES.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("dtype", "beyond"),
    [(torch.float32, 1e-6), (torch.float64, 1e-15), (torch.bfloat16, 1e-3), (torch.float16, 1e-3)],
)
def test_pixels_beyond_the_range_by_rounding_are_cut(dtype, beyond):
    images = IMAGES.to(dtype, copy=True)
    images[0, 0, 0, 0], images[1] = -beyond, 1
    before = images.clone()
    found = as_images(images)
    assert (found.min(), found.max()) == (0, 1)
    assert torch.equal(images, before)
    images[0, 0, 0, 0] = -20 * beyond
    with pytest.raises(ValueError, match=r"must have pixels in \[0, 1\]"):
        as_images(images)


def with_pixel(value):
    images = IMAGES.clone()
    images[2, 1, 3, 3] = value
    return images


REFUSED = {
    "above": (with_pixel(1.25), r"images must have pixels in \[0, 1\], found \[.*, 1.25\]. " + RANGE),
    "NaN": (with_pixel(torch.nan), r"images must have pixels in \[0, 1\], found \[nan, nan\]. " + RANGE),
    "infinite": (with_pixel(-torch.inf), r"images must have pixels in \[0, 1\], found \[-inf, .*\]. "),
    "bytes": (
        (IMAGES * 255).byte(),
        r"images must be floats in \[0, 1\], found uint8: divide bytes by 255.",
    ),
    "bytes in an array": (
        (IMAGES * 255).byte().numpy(),
        r"images must be floats in \[0, 1\], found uint8: divide bytes by 255.",
    ),
    "channels last": (
        IMAGES.permute(0, 2, 3, 1),
        r"images must be \(n, c, h, w\), found shape \(10, 6, 5, 3\), which has its channels last: give "
        r"images.permute\(0, 3, 1, 2\)",
    ),
    "one image": (
        IMAGES[0],
        r"images must be \(n, c, h, w\), found shape \(3, 6, 5\); of one image, images\[None\], "
        r"of a list of them torch.stack\(images\).",
    ),
    "loader of single images": (DataLoader(PAIRS, batch_size=None), "of one image, images"),
    "none": (IMAGES[:0], "images are empty: there is no image."),
    "no batch": ([], "images are empty: there is no image."),
    "an empty batch": ([()], "images have a batch with nothing in it."),
    "two shapes": ([IMAGES, IMAGES[..., :4]], "images must be of one shape in all batches, found"),
    "no name": (
        [{"left": IMAGES, "right": IMAGES, "y": LABELS}],
        "images have batches of left, right, y: expected is one of pixel_values, images, image, x, inputs, "
        r"img, or one tensor \(n, c, h, w\) alone.",
    ),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
def test_images_that_are_refused(source, message):
    with pytest.raises(ValueError, match=f"^{message}" if message.startswith("images") else message):
        as_images(source)


WRONG = {
    "masked": (
        np.ma.masked_less(IMAGES.numpy(), 0.1),
        "images must not be a NumPy masked array, ",
    ),
    "words": ("photos/", "images must be a torch tensor or a NumPy array of real numbers, not str."),
    "data set": (
        PAIRS,
        r"images must be a tensor or a NumPy array, \(n, c, h, w\), or batches of them",
    ),
    "generator": (
        iter(IMAGES.split(4)),
        "images must be there to be gone through again",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("source", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_images(source, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        as_images(source)


def test_batches_out_of_a_generator():
    source = ((images, None) for images in IMAGES.split(4))
    assert is_one_shot(source)
    assert not is_one_shot(DataLoader(PAIRS))
    assert torch.equal(torch.cat(list(batches_of_images(source))), IMAGES)


# -- with labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["labels", "label", "y"])
def test_labels_of_mappings(key):
    images, labels = labelled_images([{"x": IMAGES[:6], key: LABELS[:6]}, {"x": IMAGES[6:], key: LABELS[6:]}])
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)


def test_without_labels_there_are_none():
    assert labelled_images(IMAGES)[1] is None
    assert labelled_images([(IMAGES, LABELS), IMAGES])[1] is None
    with pytest.raises(ValueError, match=r"^each of images needs its label: give labels, or a loader"):
        images_and_labels(IMAGES, None)


def test_labels_go_with_images_that_are_shuffled():
    loader = DataLoader(PAIRS, batch_size=4, shuffle=True)
    images, labels = images_and_labels(loader, None)
    places = (images[:, None] == IMAGES[None]).all(-1).all(-1).all(-1).long().argmax(1)
    assert torch.equal(labels, LABELS[places])


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"sampler": SubsetRandomSampler(range(10))},
        {"batch_sampler": torch.utils.data.BatchSampler(RandomSampler(PAIRS), 4, False)},
    ],
    ids=["shuffle", "sampler", "batches"],
)
def test_labels_beside_images_that_are_shuffled_are_refused(options):
    with pytest.raises(ValueError, match=r"a loader that shuffles.*labels=None"):
        images_and_labels(DataLoader(PAIRS, **options), LABELS)
    images_and_labels(DataLoader(PAIRS), LABELS)


def test_as_many_labels_as_images():
    with pytest.raises(ValueError, match=r"^each image needs its labels, got 10 images and 9 labels\.$"):
        images_and_labels(IMAGES, LABELS[:9])


def test_a_split_of_whatever_has_labels():
    one_hot = torch.nn.functional.one_hot(LABELS, 3).float()
    for data in (
        DataLoader(PAIRS, batch_size=4),
        Split(IMAGES, one_hot),
        [(IMAGES.numpy(), one_hot.numpy())],
    ):
        split = as_split(data)
        assert torch.equal(split.images, IMAGES)
        assert torch.equal(split.labels, LABELS)
