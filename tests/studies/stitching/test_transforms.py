"""Layouts between layers of every kind; transforms: what they compute, how they begin, masks, ranks."""

import math
import re

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from repsim.studies.stitching import Layout, Moments, Transform
from repsim.studies.stitching.transforms import INITIALS, MASKS, check_rank

MAP, TOKENS, VECTOR = (4, 3, 3), (9, 4), (4,)


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def transform_between(front, end, *, flatten=False, resize=False, **options):
    return Transform(Layout(front, end, flatten, resize), **options)


def weights(transform):
    return transform.weight.detach(), transform.bias.detach()


def moments_of(x, y):
    return Moments.of([(x, y)])


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


# -- what a transform computes ------------------------------------------------------------------------------


def test_between_maps_a_transform_is_a_1x1_convolution_with_bias():
    transform = transform_between((4, 3, 5), (6, 3, 5))
    weight, bias = weights(transform)
    assert weight.shape == (6, 4)
    assert bias.any()
    x = values(2, 4, 3, 5)
    assert torch.equal(transform(x), F.conv2d(x, weight[:, :, None, None], bias))
    by_hand = np.einsum("gt,nthw->nghw", weight.numpy(), x.numpy()) + bias.numpy()[:, None, None]
    np.testing.assert_allclose(transform(x).detach().numpy(), by_hand, atol=1e-6)
    assert transform.layout.description == "1×1 convolution"


def test_between_token_sequences_a_transform_is_linear_on_each_token():
    transform = transform_between((5, 4), (5, 3))
    weight, bias = weights(transform)
    x = values(2, 5, 4)
    result = transform(x)
    assert result.shape == (2, 5, 3)
    for token in range(5):
        torch.testing.assert_close(result[:, token], x[:, token] @ weight.T + bias)
    assert transform.layout.description == "per-token linear"


@pytest.mark.parametrize("front", [(2, 3, 4), (5, 4), (7,)])
@pytest.mark.parametrize("end", [(3, 2, 2), (2, 6), (5,)])
def test_flattened_every_value_maps_to_every_value(front, end):
    transform = transform_between(front, end, flatten=True)
    weight, bias = weights(transform)
    assert weight.shape == (math.prod(end), math.prod(front)) == transform.layout.channels[::-1]
    x = values(3, *front)
    expected = (x.reshape(3, -1) @ weight.T + bias).reshape(3, *end)
    torch.testing.assert_close(transform(x), expected)
    assert transform.layout.description == "flattened linear"


def test_a_map_becomes_tokens_row_by_row():
    transform = transform_between((4, 2, 3), (6, 5))
    weight, bias = weights(transform)
    x = values(2, 4, 2, 3)
    result = transform(x)
    assert result.shape == (2, 6, 5)
    for row in range(2):
        for column in range(3):
            expected = x[:, :, row, column] @ weight.T + bias
            torch.testing.assert_close(result[:, 3 * row + column], expected)
    assert transform.layout.description == "per-token linear (map → tokens)"


def test_a_map_becomes_tokens_with_the_mean_as_class_token():
    transform = transform_between((4, 2, 3), (7, 5))
    weight, bias = weights(transform)
    x = values(2, 4, 2, 3)
    result = transform(x)
    assert result.shape == (2, 7, 5)
    torch.testing.assert_close(result[:, 0], x.mean((2, 3)) @ weight.T + bias)
    without = Transform.of(Layout((4, 2, 3), (6, 5)), weight, bias)
    torch.testing.assert_close(result[:, 1:], without(x))


@pytest.mark.parametrize("class_tokens", [0, 1])
def test_tokens_become_a_map_row_by_row_and_a_class_token_is_left_out(class_tokens):
    transform = transform_between((6 + class_tokens, 4), (5, 2, 3))
    weight, bias = weights(transform)
    x = values(2, 6 + class_tokens, 4)
    result = transform(x)
    assert result.shape == (2, 5, 2, 3)
    for row in range(2):
        for column in range(3):
            expected = x[:, class_tokens + 3 * row + column] @ weight.T + bias
            torch.testing.assert_close(result[:, :, row, column], expected)
    assert transform.layout.description == "1×1 convolution (tokens → map)"
    if class_tokens:
        x[:, 0] += 1
        torch.testing.assert_close(transform(x), result)


# -- where the channels are ---------------------------------------------------------------------------------


def test_of_a_map_with_channels_last_a_transform_maps_the_channels():
    """As in a Swin transformer, or behind ConvNeXt's LayerNorm: (height, width, channels)."""
    layout = Layout((3, 5, 4), (3, 5, 6), front_axis=2, end_axis=2)
    assert layout.channels == (4, 6)
    assert layout.kinds == ("map", "map")
    assert not layout.is_map  # as convolutions take it
    transform = Transform(layout)
    weight, bias = weights(transform)
    assert weight.shape == (6, 4)
    x = values(2, 3, 5, 4)
    torch.testing.assert_close(transform(x), x @ weight.T + bias)
    first = Transform.of(Layout((4, 3, 5), (6, 3, 5)), weight, bias)
    torch.testing.assert_close(transform(x), first(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


# the same positions, of four channels at the front and of six at the end, in every layout there is
ARRANGED = {
    "map": (lambda c: (c, 3, 5), 0, lambda value: value),
    "last": (lambda c: (3, 5, c), 2, lambda value: value.permute(0, 2, 3, 1)),
    "between": (lambda c: (3, c, 5), 1, lambda value: value.transpose(1, 2)),
    "tokens": (lambda c: (15, c), 1, lambda value: value.flatten(2).mT),
    "tokens last": (lambda c: (c, 15), 0, lambda value: value.flatten(2)),
}


@pytest.mark.matrix("last-tokens", "tokens last-between", "between-map", "map-last", "tokens-tokens last")
@pytest.mark.parametrize("front", ARRANGED)
@pytest.mark.parametrize("end", ARRANGED)
def test_wherever_channels_and_positions_are_a_transform_means_the_same(front, end):
    plain = transform_between((4, 3, 5), (6, 3, 5))
    weight, bias = weights(plain)
    (shape, front_axis, turn), (wanted, end_axis, turned) = ARRANGED[front], ARRANGED[end]
    layout = Layout(shape(4), wanted(6), front_axis=front_axis, end_axis=end_axis)
    assert layout.channels == (4, 6)
    transform, x = Transform.of(layout, weight, bias), values(2, 4, 3, 5)
    found = transform(turn(x))
    assert found.shape == (2, *wanted(6))
    torch.testing.assert_close(found, turned(plain(x)))
    rows = layout.rows(layout.arrange(turn(x)))
    assert rows.shape == (2 * 15, 4)
    torch.testing.assert_close(layout.rows(found), rows @ weight.T + bias)


@pytest.mark.parametrize("axis", [0, 2])
def test_a_class_token_and_resizing_work_wherever_the_channels_are(axis):
    x = values(2, 4, 4, 4)
    turned = x if axis == 0 else x.permute(0, 2, 3, 1)
    layout, plain = (
        Layout((4, 4, 4), (10, 4), resize=True, front_axis=axis),
        Layout((4, 4, 4), (10, 4), resize=True),
    )
    assert torch.equal(layout.arrange(turned), plain.arrange(x))
    small = Layout((4, 4, 4), (3, 3, 4), resize=True, front_axis=axis, end_axis=2).arrange(turned)
    assert torch.equal(small, Layout((4, 4, 4), (4, 3, 3), resize=True).arrange(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize(("front_axis", "end_axis"), [(None, None), (3, 3), (1, 1), (3, 1), (0, 2)])
def test_windows_are_mapped_channel_by_channel(front_axis, end_axis):
    def arranged(value, axis):
        return value.movedim(-1, (3 if axis is None else axis) + 1)

    x = values(2, 2, 3, 3, 4)  # of two images: windows, height, width, channels
    front, end = arranged(x, front_axis), arranged(values(2, 2, 3, 3, 5), end_axis)
    layout = Layout(front.shape[1:], end.shape[1:], front_axis=front_axis, end_axis=end_axis)
    assert layout.channels == (4, 5)
    assert layout.kinds == ("windows", "windows")
    assert layout.description == "per-token linear"
    transform = Transform(layout)
    weight, bias = weights(transform)
    torch.testing.assert_close(transform(front), arranged(x @ weight.T + bias, end_axis))
    assert layout.rows(layout.arrange(front)).shape == (2 * 18, 4)


# -- resizing -----------------------------------------------------------------------------------------------


def resizing(size, target):
    """The matrix of bilinear resizing with antialiasing along one axis: a triangle as wide as the stride."""
    scale = size / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / support
    matrix = np.clip(1 - distances, 0, None)
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("size", "target"), [((4, 6), (2, 3)), ((2, 2), (4, 6)), ((5, 3), (3, 5)), ((3, 3), (1, 1))]
)
def test_maps_are_resized_bilinearly_up_and_antialiased_down(size, target):
    layout = Layout((2, *size), (3, *target), resize=True)
    x = values(2, 2, *size)
    rows, columns = resizing(size[0], target[0]), resizing(size[1], target[1])
    expected = np.einsum("ab,nkbc,dc->nkad", rows, x.double().numpy(), columns)
    np.testing.assert_allclose(layout.arrange(x).numpy(), expected, atol=1e-6)
    transform = Transform(layout)
    weight, bias = weights(transform)
    assert torch.equal(transform(x), F.conv2d(layout.arrange(x), weight[:, :, None, None], bias))
    constant = torch.full((1, 2, *size), 0.7)
    torch.testing.assert_close(layout.arrange(constant), torch.full((1, 2, *target), 0.7))


def test_maps_and_tokens_are_resized_where_positions_differ():
    x = values(2, 4, 4, 4)
    bridge, plain = Layout((4, 4, 4), (10, 4), resize=True), Layout((4, 4, 4), (4, 3, 3), resize=True)
    tokens, small = bridge.arrange(x), plain.arrange(x)
    assert tokens.shape == (2, 10, 4)  # a class token and 3 × 3 positions
    assert torch.equal(tokens[:, 1:], small.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens[:, 0], small.mean((2, 3)))
    back = Layout((10, 4), (4, 5, 5), resize=True)
    larger = Layout((4, 3, 3), (4, 5, 5), resize=True)
    assert torch.equal(back.arrange(tokens), larger.arrange(small))


def test_without_resize_maps_of_different_sizes_are_refused_and_with_flatten_taken():
    assert Transform(Layout((4, 4, 4), (2, 2, 2), flatten=True))(values(3, 4, 4, 4)).shape == (3, 2, 2, 2)
    for front, end, sizes in (
        ((4, 4, 4), (4, 2, 2), "4 × 4 and 2 × 2"),
        ((4, 4, 4), (10, 4), "4 × 4 and 3 × 3"),
        ((9, 4), (4, 2, 8), "3 × 3 and 2 × 8"),
    ):
        with refused(
            f"maps of {sizes} positions do not match: resize=True resizes the front's, flatten=True maps "
            "every value to every value."
        ):
            Layout(front, end)


# -- rows, for matching -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "end", "options"),
    [
        (MAP, (6, 3, 3), {}),
        ((4, 6, 6), (6, 3, 3), {"resize": True}),
        ((5, 4), (5, 3), {}),
        ((4,), (7,), {}),
        (MAP, (9, 5), {}),
        (MAP, (10, 5), {}),
        ((10, 4), (5, 3, 3), {}),
        (MAP, (5, 2), {"flatten": True}),
    ],
)
def test_on_rows_of_channels_a_transform_is_a_matrix(front, end, options):
    """What direct matching fits to rows is what the transform then does to layers."""
    transform = transform_between(front, end, **options)
    layout = transform.layout
    weight, bias = weights(transform)
    x = values(3, *front)
    rows = layout.rows(layout.arrange(x))
    assert rows.shape[1] == layout.channels[0]
    result = transform(x)
    assert result.shape == (3, *end)
    assert layout.rows(result).shape == (len(rows), layout.channels[1])
    torch.testing.assert_close(layout.rows(result), rows @ weight.T + bias)


# -- refused layouts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["front", "end"])
@pytest.mark.parametrize("flatten", [True, False])
def test_one_number_for_each_image_is_refused(side, flatten):
    shapes = {"front": MAP, "end": MAP, side: ()}
    with refused(
        f"the {side} layer has one number for each image; a stitch takes (channels,), (tokens, width), "
        "(channels, height, width), or more."
    ):
        Layout(**shapes, flatten=flatten)


@pytest.mark.parametrize("other", [VECTOR, TOKENS, MAP])
def test_windows_are_stitched_to_nothing_else(other):
    windows = (2, 3, 4, 5)
    for front, end in ((windows, other), (other, windows)):
        with pytest.raises(
            ValueError, match="channel by channel: flatten=True maps every value to every value"
        ):
            Layout(front, end, resize=True)
        assert Layout(front, end, flatten=True).channels == (math.prod(front), math.prod(end))


def test_windows_of_other_positions_are_refused():
    with refused(
        "windows of (2, 3, 4) and (2, 4, 4) positions do not match: flatten=True maps every value to every "
        "value."
    ):
        Layout((2, 3, 4, 5), (2, 4, 4, 6), resize=True)
    with refused(
        "windows of (2, 3, 4) and (3, 4, 5) positions do not match: flatten=True maps every value to every "
        "value."
    ):
        Layout((2, 3, 4, 5), (2, 3, 4, 5), end_axis=0)


def test_maps_of_other_sizes_are_told_by_their_positions_wherever_their_channels_are():
    with refused(
        "maps of 3 × 5 and 2 × 5 positions do not match: resize=True resizes the front's, flatten=True maps "
        "every value to every value."
    ):
        Layout((3, 5, 4), (4, 2, 5), front_axis=2)


@pytest.mark.parametrize(
    ("front", "end", "kinds"),
    [(VECTOR, MAP, "vector map"), (MAP, VECTOR, "map vector"), (VECTOR, TOKENS, "vector tokens")],
)
def test_vectors_are_stitched_to_nothing_else(front, end, kinds):
    one, other = kinds.split()
    with refused(
        f"a {one} {front} cannot be stitched to a {other} {end} channel by channel: flatten=True maps every "
        "value to every value."
    ):
        Layout(front, end, resize=True)
    assert Layout(front, end, flatten=True).channels == (math.prod(front), math.prod(end))


def test_sequences_of_different_lengths_are_refused():
    with refused(
        "9 tokens cannot be stitched to 10 tokens one by one: flatten=True maps every value to every value."
    ):
        Layout((9, 4), (10, 4), resize=True)
    assert Layout((9, 4), (10, 4), flatten=True).channels == (36, 40)


@pytest.mark.parametrize(("front", "end"), [((7, 4), MAP), (MAP, (7, 4))])
def test_tokens_that_are_no_grid_are_refused(front, end):
    with refused(
        "7 tokens are no grid of positions, with or without a class token, and cannot be stitched to a map "
        "of 3 × 3: flatten=True maps every value to every value."
    ):
        Layout(front, end, resize=True)


# -- initialisation -----------------------------------------------------------------------------------------


def test_identity_changes_nothing():
    for shape in (MAP, TOKENS, VECTOR):
        x = values(2, *shape)
        assert torch.equal(transform_between(shape, shape, initial="identity")(x), x)
    x = values(2, *MAP)
    assert torch.equal(transform_between(MAP, MAP, initial="identity", flatten=True)(x), x)


@given(channels=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_permutation_reorders_channels(channels, seed):
    transform = transform_between((channels,), (channels,), initial="permutation", seed=seed)
    x = torch.arange(channels, dtype=torch.float32)
    result = transform(x[None])[0]
    assert torch.equal(result.sort().values, x)
    assert not transform.bias.any()


def test_ones_and_zeros_are_weights_without_bias():
    x = values(2, *MAP)
    ones = transform_between(MAP, (6, 3, 3), initial="ones")
    torch.testing.assert_close(ones(x), x.sum(1, keepdim=True).expand(-1, 6, -1, -1))
    zeros = transform_between(MAP, (6, 3, 3), initial="zeros")
    assert torch.equal(zeros(x), torch.zeros(2, 6, 3, 3))


def test_random_weights_are_spread_as_torchs_own():
    transform = transform_between((100, 2, 2), (300, 2, 2))
    own = torch.nn.Conv2d(100, 300, 1)
    for name, tensor, reference in (
        ("weight", transform.weight, own.weight),
        ("bias", transform.bias, own.bias),
    ):
        assert tensor.abs().max() <= 0.1, name  # 1 / √100
        assert abs(tensor.std() / reference.std() - 1) < 0.15, name
        assert abs(tensor.mean()) < 0.01, name


def test_pseudo_inverse_is_the_least_squares_match():
    x, y = values(50, 5), values(50, 3, seed=1)
    transform = transform_between((5,), (3,), initial="pseudo_inverse", moments=moments_of(x, y))
    design = np.column_stack([x.numpy(), np.ones(50)])
    solution = np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(transform.weight.detach().numpy(), solution[:5].T, atol=1e-5)
    np.testing.assert_allclose(transform.bias.detach().numpy(), solution[5], atol=1e-5)


@pytest.mark.matrix("semi_match", "identity")
@pytest.mark.parametrize("initial", INITIALS)
@pytest.mark.parametrize("mask", MASKS)
def test_every_initialisation_goes_with_every_mask(initial, mask):
    moments = moments_of(values(40, 6), values(40, 6, seed=1))
    transform = transform_between((6,), (6,), initial=initial, mask=mask, moments=moments)
    plain = transform_between((6,), (6,), initial=initial, moments=moments)
    assert transform.weight.shape == (6, 6)
    used = torch.ones(6, 6) if mask == "identity" else transform.mask
    assert torch.equal(transform.weight, plain.weight * used)


def test_equal_seeds_make_equal_transforms_and_the_callers_random_state_stays():
    moments = moments_of(values(40, 6), values(40, 6, seed=1))
    options = [
        {"initial": "random"},
        {"initial": "random", "rank": 2},
        {"initial": "permutation"},
        {"initial": "random", "mask": "random_permutation"},
        {"initial": "pseudo_inverse", "mask": "semi_match", "moments": moments},
    ]
    for each in options:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        first = transform_between((6,), (6,), seed=5, **each)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(8)
        second = transform_between((6,), (6,), seed=5, **each)
        state, other = first.state_dict(), second.state_dict()
        assert all(torch.equal(state[name], other[name]) for name in state)
    for each in options[:4]:
        first, second = (transform_between((6,), (6,), seed=seed, **each) for seed in (5, 6))
        assert not torch.equal(first.weight, second.weight)


# -- masks --------------------------------------------------------------------------------------------------


def noisy_copies(signs, seed=0):
    """Channels of an end that are the front's, in another order, some turned round, with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, len(signs), generator=generator)
    order = torch.randperm(len(signs), generator=generator)
    noise = torch.randn(200, len(signs), generator=generator)
    scales = torch.rand(len(signs), generator=generator) * 5 + 0.5
    return x, order, (x[:, order] * torch.tensor(signs) + 0.3 * noise) * scales + 4


def test_semi_match_finds_a_known_permutation():
    x, order, y = noisy_copies([1.0] * 8)
    for mask in ("semi_match", "absolute_semi_match"):
        transform = transform_between((8,), (8,), initial="ones", mask=mask, moments=moments_of(x, y))
        assert torch.equal(transform.mask, torch.eye(8)[order])
        assert torch.equal(transform(x).detach(), x[:, order])


def test_absolute_semi_match_finds_channels_that_are_turned_round():
    signs = [1.0, -1.0, 1.0, -1.0, -1.0, 1.0]
    x, order, y = noisy_copies(signs)
    moments = moments_of(x, y)
    found = transform_between((6,), (6,), mask="absolute_semi_match", moments=moments).mask
    assert torch.equal(found, torch.eye(6)[order])
    signed = transform_between((6,), (6,), mask="semi_match", moments=moments).mask.argmax(1)
    assert [bool(one) for one in signed == order] == [sign > 0 for sign in signs]


def test_semi_match_looks_at_correlation_whatever_the_widths():
    """One of the front's channels for each of the end's; the front's may serve twice or not at all."""
    x, y = values(300, 5), values(300, 9, seed=1)
    y[:, 4] += x[:, 2]
    y[:, 7] += 3 * x[:, 2]
    correlation = np.corrcoef(x.numpy(), y.numpy(), rowvar=False)[5:, :5]
    for mask, score in (("semi_match", correlation), ("absolute_semi_match", np.abs(correlation))):
        transform = transform_between((5,), (9,), mask=mask, moments=moments_of(x, y))
        assert transform.mask.sum(1).tolist() == [1.0] * 9
        assert transform.mask.argmax(1).tolist() == score.argmax(1).tolist()
    assert transform.mask[[4, 7], 2].tolist() == [1, 1]


def test_a_constant_channel_does_not_disturb_the_match_of_the_others():
    x, order, y = noisy_copies([1.0] * 5)
    x, y = torch.cat([x, torch.full((200, 1), 3.0)], 1), torch.cat([y, torch.zeros(200, 1)], 1)
    transform = transform_between((6,), (6,), mask="absolute_semi_match", moments=moments_of(x, y))
    assert transform.mask.argmax(1)[:5].tolist() == order.tolist()
    assert transform.mask.sum(1).tolist() == [1.0] * 6


@given(channels=st.integers(1, 16), seed=st.integers(0, 2**31))
def test_a_random_permutation_mask_is_a_permutation(channels, seed):
    mask = transform_between((channels,), (channels,), mask="random_permutation", seed=seed).mask
    assert torch.equal(mask.sum(0), torch.ones(channels))
    assert torch.equal(mask.sum(1), torch.ones(channels))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_masked_weights_stay_unused_and_untrained():
    transform = transform_between(MAP, MAP, mask="random_permutation", initial="ones", seed=3)
    unused = transform.mask == 0
    x, target = values(20, *MAP), values(20, *MAP, seed=1)
    before = transform.full.detach().clone()
    optimizer = torch.optim.SGD(transform.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (transform(x) - target).square().mean().backward()
        assert not transform.full.grad[unused].any()
        assert transform.full.grad[~unused].all()
        optimizer.step()
    assert torch.equal(transform.full[unused], before[unused])
    assert not transform.weight[unused].any()
    assert (transform.weight[~unused] != 1).all()
    assert "mask" not in dict(transform.named_parameters())


# -- rank ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "end", "options"), [((6, 2, 2), (5, 2, 2), {}), ((3, 2), (5,), {"flatten": True})]
)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_weight_has_the_rank_asked_for_and_keeps_it_in_training(front, end, options, rank):
    transform = transform_between(front, end, rank=rank, **options)
    assert np.linalg.matrix_rank(transform.weight.detach().numpy(), tol=1e-5) == rank
    assert sum(weight.numel() for weight in transform.parameters()) == rank * (6 + 5) + 5
    before = transform.weight.detach().clone()
    optimizer = torch.optim.Adam(transform.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        (transform(values(8, *front)) - values(8, *end, seed=step)).square().mean().backward()
        optimizer.step()
    assert not torch.allclose(transform.weight, before, atol=1e-2)
    assert np.linalg.matrix_rank(transform.weight.detach().numpy(), tol=1e-5) == rank


@pytest.mark.parametrize("initial", ["random", "identity", "permutation", "pseudo_inverse"])
def test_a_low_rank_begins_as_near_to_the_initial_weight_as_it_can(initial):
    moments = moments_of(values(60, 6), values(60, 6, seed=1))
    options = {"initial": initial, "moments": moments}
    whole = transform_between((6,), (6,), **options).weight.detach().double().numpy()
    for rank in (2, 6):
        found = transform_between((6,), (6,), rank=rank, **options).weight.detach().double().numpy()
        assert np.linalg.matrix_rank(found, tol=1e-5) == rank
        if initial != "pseudo_inverse":  # which is the best fit of a rank, not the nearest weight
            spectrum = np.linalg.svd(whole)[1]
            expected = math.sqrt((spectrum[rank:] ** 2).sum())
            assert np.linalg.norm(found - whole) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(found, whole, atol=1e-5)  # full rank


@pytest.mark.parametrize("rank", [-1, 4, 100])
def test_impossible_ranks_are_refused(rank):
    message = f"rank must be between 1 and 3, as the transform takes 5 channels and gives 3; it is {rank}."
    with refused(message):
        transform_between((5,), (3,), rank=rank)
    with refused(message):
        check_rank(rank, 5, 3)


@pytest.mark.parametrize("mask", MASKS[1:])
def test_a_mask_and_a_rank_are_refused_together(mask):
    with refused(f"mask={mask!r} would change the rank: give a mask or a rank, not both."):
        transform_between((4,), (4,), rank=2, mask=mask, moments=moments_of(values(9, 4), values(9, 4)))


@pytest.mark.parametrize(("initial", "own", "rank"), [("zeros", 0, 1), ("zeros", 0, 2), ("ones", 1, 2)])
def test_initialisations_from_which_no_gradient_leads_to_the_rank_are_refused(initial, own, rank):
    with refused(
        f"initial={initial!r} has rank {own}, and no gradient leads from there to rank {rank}: take another "
        "initialisation."
    ):
        transform_between((4,), (4,), rank=rank, initial=initial)


# -- other refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option", [{"initial": "identity"}, {"initial": "permutation"}, {"mask": "random_permutation"}]
)
def test_what_is_square_is_refused_for_different_widths(option):
    ((name, value),) = option.items()
    with refused(
        f"{name}={value!r} needs as many channels in the front layer as in the end layer, not 4 and 6."
    ):
        transform_between(MAP, (6, 3, 3), **option)


@pytest.mark.parametrize(
    "option", [{"initial": "pseudo_inverse"}, {"mask": "semi_match"}, {"mask": "absolute_semi_match"}]
)
def test_what_is_made_from_values_is_refused_without_them(option):
    ((name, value),) = option.items()
    with refused(f"{name}={value!r} is made from the layers' values: give images."):
        transform_between(MAP, (6, 3, 3), **option)


@pytest.mark.usefixtures("unchecked")
def test_unknown_names_are_refused_with_the_nearest():
    with refused(
        "unknown initialisation 'identical'; did you mean 'identity'? Known: random, identity, permutation, "
        "pseudo_inverse, ones, zeros."
    ):
        transform_between(MAP, MAP, initial="identical")
    with refused(
        "unknown mask 'semimatch'; did you mean 'semi_match' or 'absolute_semi_match'? Known: identity, "
        "semi_match, absolute_semi_match, random_permutation."
    ):
        transform_between(MAP, MAP, mask="semimatch")


# -- spectrum, truncation, storing --------------------------------------------------------------------------


EVERY = {
    "plain": {},
    "low rank": {"rank": 2},
    "permuted": {"mask": "random_permutation"},
    "matched": {"mask": "semi_match"},
    "pseudo-inverse": {"initial": "pseudo_inverse", "rank": 3},
    "identity": {"initial": "identity"},
}


def every(name, shape=(5, 2, 2), **options):
    moments = moments_of(values(60, 5), values(60, 5, seed=1))
    return transform_between(shape, shape, moments=moments, **EVERY[name], **options)


@pytest.mark.parametrize("name", EVERY)
def test_singular_values_are_those_of_the_weight(name):
    transform = every(name)
    expected = np.linalg.svd(transform.weight.detach().double().numpy(), compute_uv=False)
    found = transform.singular_values()
    assert found.shape == (5,)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert (found.diff() <= 0).all()


@pytest.mark.matrix("2")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_truncation_is_the_nearest_of_a_rank_on_a_copy(name, rank):
    transform = every(name)
    state = {key: value.clone() for key, value in transform.state_dict().items()}
    truncated = transform.truncated(rank)
    weight = transform.weight.detach().double().numpy()
    u, s, v = np.linalg.svd(weight)
    expected = (u[:, :rank] * s[:rank]) @ v[:rank]
    if s[rank - 1] > s[min(rank, 4)] + 1e-6 or rank == 5:  # otherwise several are as near
        np.testing.assert_allclose(truncated.weight.detach().numpy(), expected, atol=1e-6)
    error = np.linalg.norm(truncated.weight.detach().numpy() - weight)
    assert error == pytest.approx(math.sqrt((s[rank:] ** 2).sum()), abs=1e-5)
    assert np.linalg.matrix_rank(truncated.weight.detach().numpy(), tol=1e-5) <= rank
    assert torch.equal(truncated.bias, transform.bias)
    assert truncated.layout == transform.layout
    with torch.no_grad():
        for parameter in truncated.parameters():
            parameter.fill_(9)
    assert all(torch.equal(value, state[key]) for key, value in transform.state_dict().items())


@pytest.mark.matrix("shape0")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(5, 2, 2), (3, 5), (5,)])
def test_a_transform_is_restored_from_its_state(name, shape):
    transform = every(name, shape, seed=4)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.1)
    state = {key: value.clone() for key, value in transform.state_dict().items()}
    restored = Transform.restored(transform.layout, state)
    assert restored.state_dict().keys() == state.keys()
    x = values(3, *shape)
    assert torch.equal(restored(x), transform(x))
    assert torch.equal(restored.weight, transform.weight)
    with torch.no_grad():
        for parameter in restored.parameters():
            parameter.zero_()
    assert all(value.any() for key, value in state.items() if key != "mask")  # the restored one is its own
    restored = Transform.restored(transform.layout, state)
    for each in (transform, restored):  # and goes on learning as the first
        each(x).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in restored.named_parameters()}
    for name, parameter in transform.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]), name


def test_a_state_that_does_not_fit_is_refused():
    state = every("plain").state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for full"):
        Transform.restored(Layout((6,), (5,)), state)
