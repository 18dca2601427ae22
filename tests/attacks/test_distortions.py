"""JPEG, Gabor and snow: their definitions, their bounds, their gradients, and that they fool."""

import io
import re

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from repsim.attacks import JPEG, Gabor, Snow, run_attack
from repsim.attacks.distortion import convolve
from repsim.attacks.gabor import KERNEL, gabor_kernels
from repsim.attacks.jpeg import dct_matrix, decode, encode
from repsim.attacks.snow import streak_kernels, whitened
from repsim.models import build_model
from repsim.training import accuracy

ATTACKS = {
    "snow": Snow,
    "gabor": Gabor,
    "jpeg": JPEG,
    "jpeg l2": lambda *a, **o: JPEG(a[0], "l2", *a[1:], **o),
}
WEAK = {"snow": 0.1, "gabor": 0.2, "jpeg": 0.3, "jpeg l2": 3.0}
each = pytest.mark.parametrize("kind", ATTACKS)
SHAPES = [(1, 16, 16), (3, 16, 16), (3, 32, 24), (1, 13, 21), (3, 7, 9), (3, 1, 5)]
shaped = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def pictures(count, shape, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def photograph():
    """96 × 80 pixels of a temple, (1, 3, h, w)."""
    pixels = torch.tensor(load_sample_image("china.jpg")[150:246, 200:280].copy())
    return pixels.permute(2, 0, 1)[None] / 255


def upwards(images):
    return images.sum()


# what comes out


@pytest.mark.matrix("3x32x24", "1x13x21")
@each
@shaped
def test_images_of_any_shape_stay_images(kind, shape):
    images = pictures(3, shape)
    images[0], images[1] = 0, 1
    torch.manual_seed(0)
    found = ATTACKS[kind](2.0, steps=2).climb(upwards, images)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, images)


@pytest.mark.parametrize("attack", [Snow(0.1), JPEG(0.1)], ids=["snow", "jpeg"])
def test_other_channels_than_grey_and_colour(attack):
    model = build_model("mlp", (2, 8, 8), 4, [0.5] * 2, [0.2] * 2)
    message = f"{attack.name} takes grey or colour images, of 1 or 3 channels, not 2."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run_attack(model, pictures(2, (2, 8, 8)), torch.zeros(2, dtype=torch.long), attack)


@pytest.mark.parametrize("kind", [Snow, Gabor])
def test_norms_that_have_no_meaning(kind):
    with pytest.raises(ValueError, match=rf"^the attack {kind.name} has the norm linf only\.$"):
        kind(0.1, "l2")


@pytest.mark.parametrize("quality", [0, 101])
def test_impossible_quality(quality):
    with pytest.raises(ValueError, match=rf"^the quality of a JPEG is from 1 to 100, not {quality}\.$"):
        JPEG(0.1, quality=quality)


def test_without_epsilon_gabor_changes_nothing():
    images = pictures(3, (3, 16, 16))
    assert torch.equal(Gabor(0.0).climb(upwards, images), images)


def test_without_epsilon_snow_whitens():
    images = pictures(3, (3, 16, 16))
    torch.testing.assert_close(Snow(0.0).climb(upwards, images), whitened(images))


def test_without_epsilon_jpeg_compresses():
    images = pictures(3, (3, 16, 16))
    compressed = decode(encode(images, 75).round(), (3, 16, 16), 75).clamp(0, 1)
    torch.testing.assert_close(JPEG(0.0).climb(upwards, images), compressed)


@each
def test_steps_and_their_length(kind):
    images, calls = pictures(2, (1, 16, 16)), []

    def watched(x):
        calls.append(1)
        return x.sum()

    torch.manual_seed(0)
    far = ATTACKS[kind](0.5, steps=3).climb(watched, images)
    assert len(calls) == 3
    torch.manual_seed(0)
    near = ATTACKS[kind](0.5, steps=3, step_size=1e-4).climb(watched, images)
    assert far.sum() > near.sum()
    assert ATTACKS[kind](0.5, steps=5).step_size == pytest.approx(0.25)


# the climb


@pytest.mark.matrix("snow", "gabor", "jpeg")
@each
def test_fools_and_more_so_with_epsilon(trained, tiny_data, kind):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    found = [
        accuracy(
            trained, run_attack(trained, images, labels, ATTACKS[kind](scale * WEAK[kind], steps=5)), labels
        )
        for scale in (0, 1, 4)
    ]
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.3


@pytest.mark.slow
@each
def test_fools_more_than_what_is_only_drawn(trained, tiny_data, kind):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    made, drawn = (
        run_attack(trained, images, labels, ATTACKS[kind](4 * WEAK[kind], steps=5, step_size=length))
        for length in (None, 0.0)
    )
    assert accuracy(trained, made, labels) < accuracy(trained, drawn, labels) - 0.2


@pytest.mark.matrix("3")
@each
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_the_distortion(kind, channels):
    """Away from black and white, where images are cut off."""
    images = 0.35 + 0.1 * pictures(2, (channels, 5, 6)).double()
    attack = ATTACKS[kind](0.01)
    numbers = torch.rand(2, attack.draws((channels, 5, 6)), generator=torch.Generator().manual_seed(1))
    distorted, start = attack.prepare(images, numbers.double())
    parameters = start[:, :64] if start.ndim == 2 else start  # of JPEG, the first block

    def of_some(some):
        return distorted(torch.cat([some, start[:, 64:]], dim=1) if start.ndim == 2 else some)

    assert torch.autograd.gradcheck(of_some, (parameters.detach().clone().requires_grad_(),))


@pytest.mark.matrix("snow", "jpeg")
@each
def test_one_images_result_depends_on_no_other(trained, batch, kind):
    images, labels = batch
    attack = ATTACKS[kind](WEAK[kind], steps=3)
    together = run_attack(trained, images, labels, attack)
    for size in (7, 23):
        in_parts = run_attack(trained, images, labels, attack, batch_size=size)
        # rounding may turn the sign of a tiny gradient, in an image or two
        differing = (in_parts - together).abs().amax((1, 2, 3)) > 1e-5
        assert differing.sum() <= 2


@pytest.mark.matrix("snow", "jpeg l2")
@each
def test_random_numbers(trained, batch, kind):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    attack = ATTACKS[kind](WEAK[kind], steps=2)
    one, again, other = (run_attack(trained, *batch, attack, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


# convolution


@pytest.mark.parametrize("size", [(9, 9), (4, 30), (1, 1)])
def test_convolution(size):
    layers = pictures(2, (3, *size)).double()
    kernels = pictures(2, (3, 5, 5), seed=1).double()
    found = convolve(layers, kernels)
    for i in range(2):
        for j in range(3):
            # the larger one first, cut to the layer's size
            whole = scipy.signal.convolve2d(layers[i, j], kernels[i, j], mode="full")
            expected = whole[2 : 2 + size[0], 2 : 2 + size[1]]
            np.testing.assert_allclose(found[i, j], expected, atol=1e-12)


# JPEG


@pytest.mark.parametrize("size", [8, 5])
def test_cosine_transform(size):
    matrix = dct_matrix(size)
    block = pictures(1, (size, size))[0].double()
    np.testing.assert_allclose(
        matrix @ block @ matrix.T, scipy.fft.dctn(block.numpy(), norm="ortho"), atol=1e-12
    )
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("quality", [10, 50, 75, 95, 100])
def test_grey_images_are_compressed_as_by_another_program(quality):
    grey = (255 * photograph().mean(1)).round().to(torch.uint8)[0]
    file = io.BytesIO()
    Image.fromarray(grey.numpy()).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file), dtype=float)
    found = 255 * JPEG(0.0, quality=quality).climb(upwards, grey[None, None] / 255)[0, 0]
    # it transforms in whole numbers, so that a coefficient in the middle may be rounded the other way
    error = np.abs(found.numpy() - expected)
    assert error.mean() < 0.6
    assert (error <= 1).mean() > 0.85


def test_colour_images_are_compressed_as_by_another_program():
    colour = photograph()
    file = io.BytesIO()
    pixels = (255 * colour[0].permute(1, 2, 0)).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=75, subsampling="4:2:0")
    expected = np.asarray(Image.open(file), dtype=float)
    found = 255 * JPEG(0.0).climb(upwards, colour)[0].permute(1, 2, 0).numpy()
    # colours in between are filled in otherwise (it smooths); the brightness is the same
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs((found - expected) @ luma).mean() < 1
    assert np.abs(found - expected).mean() < 3
    assert np.abs(found - expected).mean() < np.abs(found - pixels).mean() / 2


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 9, 13), (3, 16, 32)])
def test_coefficients_give_the_image_back(shape):
    images = pictures(2, shape).double()
    if shape[0] == 3:  # colours that do not vary within 2 × 2 pixels
        images = images[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(decode(encode(images, 60), shape, 60), images, rtol=0, atol=1e-5)


def test_a_coefficients_error_stays_in_its_block():
    images = torch.full((1, 1, 24, 24), 0.5)
    attack = JPEG(1.0)
    distorted, start = attack.prepare(images, torch.rand(1, attack.draws((1, 24, 24))))
    added = torch.zeros_like(start)
    plain = distorted(added)
    added[0, 4 * 64 + 3] = 1.0  # the middle block, one step of a wave along its columns
    moved = (distorted(added) - plain)[0, 0]
    assert (moved != 0).nonzero().min() >= 8
    assert (moved != 0).nonzero().max() < 16
    step = (16 * 50 + 50) // 100  # of this coefficient, at quality 75
    assert moved.norm() == pytest.approx(step / 255, rel=1e-4)  # the transform keeps lengths


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_bound_of_jpeg(norm):
    attack = JPEG(1.5, norm)
    beyond = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)) * 3
    inside = attack.project(beyond)
    lengths = inside.abs().amax(1) if norm == "linf" else inside.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((4,), 1.5))
    torch.testing.assert_close(attack.project(inside), inside)
    numbers = torch.rand(50, attack.draws((1, 16, 16)), generator=torch.Generator().manual_seed(0))
    start = attack.prepare(pictures(50, (1, 16, 16)), numbers)[1]
    torch.testing.assert_close(attack.project(start), start)
    assert start.any()


# Gabor


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_no_pixel_changes_by_more_than_epsilon(epsilon):
    images = 0.5 + 0.02 * pictures(20, (1, 16, 16))
    torch.manual_seed(0)
    found = Gabor(epsilon, steps=10).climb(lambda x: ((x - images) ** 2).sum(), images)
    change = (found - images).abs().amax((1, 2, 3))
    assert (change <= epsilon * (1 + 1e-5)).all()
    assert change.max() > 0.5 * epsilon


def test_noise_is_the_same_in_all_channels():
    images = 0.4 + 0.2 * pictures(2, (3, 16, 16))
    torch.manual_seed(0)
    change = Gabor(0.1, steps=2).climb(upwards, images) - images
    torch.testing.assert_close(change[:, 0], change[:, 2])
    assert change.any()


def test_gabor_kernels():
    numbers = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)).double()
    kernels = gabor_kernels(numbers)
    middle = KERNEL // 2
    torch.testing.assert_close(kernels[:, middle, middle], torch.ones(30).double())
    assert kernels.abs().amax((1, 2)).max() <= 1 + 1e-12
    torch.testing.assert_close(kernels, kernels.flip(1, 2))
    # one orientation, along the columns: by hand
    (kernel,) = gabor_kernels(torch.tensor([[0.0, 0.0, 0.0, 0.0]]).double())
    place = torch.arange(KERNEL) - middle
    envelope = torch.exp(-(place**2) / (2 * 2.3**2)).double()
    stripes = torch.cos(2 * torch.pi * place / 4.0).double()
    torch.testing.assert_close(kernel, envelope[:, None] * (envelope * stripes)[None, :])
    # the most orientations are nearly round: quarter turns change little
    (many,) = gabor_kernels(torch.tensor([[0.5, 0.5, 0.3, 0.999]]).double())
    (one,) = gabor_kernels(torch.tensor([[0.5, 0.5, 0.3, 0.0]]).double())
    turned = [(kernel - kernel.rot90()).abs().mean() / kernel.abs().mean() for kernel in (many, one)]
    assert turned[0] < turned[1] / 3


def test_gabor_kernels_sit_in_few_places():
    images = torch.full((8, 1, 40, 40), 0.5)
    attack = Gabor(0.1)
    numbers = torch.rand(8, attack.draws((1, 40, 40)), generator=torch.Generator().manual_seed(0))
    distorted, start = attack.prepare(images, numbers)
    coefficients = torch.zeros_like(start).requires_grad_()
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((distorted(coefficients) * weights).sum(), coefficients)
    assert (gradient != 0).float().mean().item() == pytest.approx(1 / 14, rel=0.1)


# snow


def test_whitening():
    grey = torch.tensor([0.0, 0.4, 1.0]).view(1, 1, 1, 3)
    torch.testing.assert_close(whitened(grey).flatten(), torch.tensor([0.125, 0.4 + 0.25 * 0.7, 1.0]))
    blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    bright = 1.5 * 0.114 + 0.5
    torch.testing.assert_close(whitened(blue).flatten(), torch.tensor([0.25 * bright, 0.25 * bright, 1.0]))


def test_snow_only_adds():
    images = photograph()
    torch.manual_seed(0)
    added = Snow(0.4, steps=3).climb(lambda x: -x.sum(), images) - whitened(images)
    assert added.min() > -1e-5


def test_the_attack_chooses_where_it_snows():
    images = torch.full((1, 1, 16, 16), 0.2)
    to_the_left = torch.where(torch.arange(16) < 8, 1.0, -1.0)
    torch.manual_seed(0)
    snow = Snow(0.3, steps=20).climb(lambda x: (x * to_the_left).sum(), images) - whitened(images)
    assert snow[..., :6].mean() > 5 * snow[..., 10:].mean()


@pytest.mark.parametrize("size", [(16, 16), (40, 25)])
def test_the_amount_of_snow_is_bounded_in_every_region(size):
    attack = Snow(0.5)
    beyond = 2 * pictures(3, (2, *size)) - 0.5
    inside = attack.project(beyond)
    assert inside.min() >= 0
    assert inside.max() <= 0.5
    most = 0.2 * 0.5 / 16
    for top in range(0, size[0], 16):
        for left in range(0, size[1], 16):
            mean = inside[..., top : top + 16, left : left + 16].mean((2, 3))
            torch.testing.assert_close(mean, torch.full_like(mean, most))
    little = 0.01 * pictures(1, (2, *size))
    torch.testing.assert_close(attack.project(little), little)


def test_flakes():
    numbers = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]).double()
    short, long, upright, thick = streak_kernels(numbers, 4)
    middle = len(short) // 2
    for kernel in (short, long, upright, thick):
        assert kernel[middle, middle] == kernel.max() == 1
        torch.testing.assert_close(kernel, kernel.flip(0, 1))
        assert kernel[0].max() < 0.05
    assert (short[middle] > 0.9).sum() == 3  # one pixel to either side
    assert (long[middle] > 0.9).sum() == 9
    torch.testing.assert_close(upright, long.T)
    assert thick.sum() > short.sum()
