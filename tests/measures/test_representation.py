"""What is taken for a representation, what is refused, and what is kept of it."""

import gc
import warnings
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch

from repsim.measures import MEASURES
from repsim.measures.measure import represent_pair
from repsim.measures.representation import (
    Memory,
    Representation,
    centered,
    kept,
    kept_pair,
    narrow,
    norm,
    reduced,
    reduced_raw,
    represent,
)
from repsim.support.arrays import tensor_of

CKA = MEASURES["cka"]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = random(20, 5), random(20, 5) + random(20, 5, seed=1)


def prepare(values, memory=None, **options):
    given = {"pool": False, "dtype": torch.float64, "device": None, **options}
    return represent(values, "x", memory=memory or Memory(), **given)


def with_value(value):
    matrix = X.clone()
    matrix[3, 2] = matrix[3, 4] = matrix[7, 0] = value
    return matrix


# -- what is refused ----------------------------------------------------------------------------------------

NOT_FINITE = "has values that are not finite (NaN or infinite) in 2 of its rows."
CONSTANT = "does not vary: all its rows are the same, and no measure is defined on it."
SHAPE = "must have one row per input, (n, d), or be feature maps (n, c, h, w) or tokens (n, t, d); got shape "
BAD_VALUES = {
    "three rows": (X[:3], "has 3 rows; a measure needs at least 4 inputs."),
    "no rows": (X[:0], "has 0 rows; a measure needs at least 4 inputs."),
    "no units": (X[:, :0], "has no units: its shape is (20, 0)."),
    "NaN": (with_value(torch.nan), NOT_FINITE),
    "inf": (with_value(torch.inf), NOT_FINITE),
    "-inf": (with_value(-torch.inf), NOT_FINITE),
    "NaN in NumPy": (with_value(torch.nan).numpy(), NOT_FINITE),
    "zeros": (torch.zeros(20, 5), CONSTANT),
    "constant": (X[:1].expand(20, 5), CONSTANT),
    "constant but for rounding": (1e6 * (1 + 1e-16 * X) + X[:1], CONSTANT),
    "constant, its mean rounded": (torch.full((101, 3), 0.1), CONSTANT),
    "0-d": (torch.tensor(1.0), SHAPE + "()."),
    "0-d in NumPy": (np.array(1.0), SHAPE + "()."),
    "1-d": (X[:, 0], SHAPE + "(20,)."),
    "5-d": (random(20, 2, 2, 2, 2), SHAPE + "(20, 2, 2, 2, 2)."),
}
BAD_TYPES = {
    "list": (X.tolist(), "list"),
    "None": (None, "NoneType"),
    "complex": (X.to(torch.complex128), "Tensor of torch.complex128"),
    "complex in NumPy": (X.numpy().astype(complex), "ndarray of complex128"),
    "words": (X.numpy().astype(str), "ndarray of <U32"),
    "objects": (X.numpy().astype(object), "ndarray of object"),
}


def parameters(table):
    return [pytest.param(*case, id=name) for name, case in table.items()]


@pytest.mark.parametrize(("bad", "complaint"), parameters(BAD_VALUES))
def test_bad_values(bad, complaint):
    with pytest.raises(ValueError, match=r"^x ") as caught:
        CKA(bad, X)
    assert str(caught.value) == f"x {complaint}"
    with pytest.raises(ValueError, match=r"^y ") as caught:
        CKA(X, bad)
    assert str(caught.value) == f"y {complaint}"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("bad", "kind"), parameters(BAD_TYPES))
def test_bad_types(bad, kind):
    expected = f"must be a torch tensor or a NumPy array of real numbers, not {kind}"
    with pytest.raises(TypeError) as caught:
        CKA(bad, X)
    assert str(caught.value).startswith(f"x {expected}")
    with pytest.raises(TypeError) as caught:
        CKA(X, bad)
    assert str(caught.value).startswith(f"y {expected}")


def test_rows_must_be_of_the_same_inputs():
    with pytest.raises(ValueError, match="rows") as caught:
        CKA(X, Y[:12])
    assert str(caught.value) == ("x and y must have one row for each of the same inputs; got 20 and 12 rows.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype") as caught:
        CKA(X, Y, dtype=dtype)
    assert str(caught.value) == f"dtype must be torch.float32 or torch.float64, not {dtype}."


def test_float32_may_be_too_little():
    """What overflows, and what no longer varies, in the precision to compute in."""
    with pytest.raises(ValueError, match=r"^x has values that are not finite \(NaN or infinite\) in 20 of"):
        CKA(1e40 * X, Y, dtype=torch.float32)
    shifted = 1e8 + X
    assert CKA(shifted, Y) == pytest.approx(CKA(X, Y), rel=1e-6)
    with pytest.raises(ValueError, match=r"^x does not vary"):
        CKA(shifted, Y, dtype=torch.float32)


def test_what_hardly_varies_is_not_constant():
    assert CKA(1e-9 * X + 1, Y) == pytest.approx(CKA(X, Y), rel=1e-5)
    assert CKA(1e-30 * X, Y) == pytest.approx(CKA(X, Y))


# -- what is accepted ---------------------------------------------------------------------------------------

WHOLE = (10 * X).round()
READ_ONLY = X.numpy().copy()
READ_ONLY.flags.writeable = False
ACCEPTED = {
    "int64": (WHOLE.long(), WHOLE),
    "int8 in NumPy": (WHOLE.numpy().astype(np.int8), WHOLE),
    "uint16 in NumPy": (WHOLE.abs().numpy().astype(np.uint16), WHOLE.abs()),
    "bool": (X > 0, (X > 0).double()),
    "bool in NumPy": (X.numpy() > 0, (X > 0).double()),
    "float16": (X.half(), X.half().double()),
    "float16 in NumPy": (X.numpy().astype(np.float16), X.half().double()),
    "long double in NumPy": (X.numpy().astype(np.longdouble), X),
    "requires grad": (X.clone().requires_grad_(), X),
    "part of a graph": (2 * X.clone().requires_grad_(), 2 * X),
    "negative strides": (X.numpy()[::-1, ::-1], X.flip(0, 1)),
    "Fortran order": (np.asfortranarray(X.numpy()), X),
    "every second unit": (np.repeat(X.numpy(), 2, axis=1)[:, ::2], X),
    "big-endian": (X.numpy().astype(">f8"), X),
    "read-only": (READ_ONLY, X),
    "transposed": (X.T.contiguous().T, X),
    "broadcast": (np.broadcast_to(X.numpy()[:, :1], (20, 4)), X[:, :1].expand(20, 4)),
}


@pytest.mark.usefixtures("unchecked")  # jaxtyping does not know long doubles
@pytest.mark.parametrize(("given", "meant"), parameters(ACCEPTED))
def test_other_arrays(given, meant):
    found = prepare(given)
    assert found.values.dtype == torch.float64
    assert not found.values.requires_grad
    assert torch.equal(found.values, meant)
    assert (found.n, found.width) == meant.shape
    assert CKA(given, Y) == pytest.approx(CKA(meant, Y), rel=1e-12)


@pytest.mark.parametrize("kind", ["int64", "bool", "bool in NumPy", "read-only"])
def test_annotations_allow_them(kind):
    given, meant = ACCEPTED[kind]
    assert prepare(given).n == len(meant)


def test_a_read_only_array_stays_as_it_was():
    before = READ_ONLY.copy()
    CKA(READ_ONLY, READ_ONLY)
    assert np.array_equal(READ_ONLY, before)


def test_arrays_are_not_copied_without_need():
    array = X.numpy()
    assert tensor_of(array, "x").data_ptr() == array.ctypes.data
    assert prepare(X).values.data_ptr() == X.data_ptr()


@pytest.mark.parametrize(("shape", "mean_over"), [((20, 3, 4, 2), (2, 3)), ((20, 6, 3), (1,)), ((20, 3), ())])
def test_features_are_flattened_or_pooled(shape, mean_over):
    features = random(*shape)
    assert torch.equal(prepare(features).values, features.flatten(1))
    pooled = prepare(features, pool=True).values
    assert torch.equal(pooled, features.mean(mean_over) if mean_over else features)
    assert pooled.shape == (20, 3)
    whole = (100 * features).long()
    assert prepare(whole, pool=True).values.shape == pooled.shape  # whole numbers have no mean in torch


def test_pooling_may_leave_nothing():
    half = random(20, 3, 2, 1)
    features = torch.cat([half, -half], dim=3)
    prepare(features)
    with pytest.raises(ValueError, match=r"^x does not vary"):
        prepare(features, pool=True)


def test_a_pair_shares_one_memory():
    x, y = represent_pair(X, Y.float())
    assert x.memory is y.memory
    assert x.values.dtype == y.values.dtype == torch.float64
    x, y = represent_pair(X, Y, dtype=torch.float32)
    assert x.values.dtype == y.values.dtype == torch.float32


# -- memory -------------------------------------------------------------------------------------------------

EIGHTY = 80  # bytes of ten numbers


def tenth(value=0.0):
    return torch.full((10,), value, dtype=torch.float64)


def never():
    raise AssertionError("computed again")


def test_memory_keeps():
    memory = Memory()
    kept_first = memory.recall(("a",), tenth)
    assert memory.recall(("a",), never) is kept_first
    assert memory.size == EIGHTY
    assert Memory().recall(("a",), tenth) is not kept_first


def test_what_is_kept_goes_with_the_last_use_of_it():
    """At once: representations and results do not hold one another until a collection comes by."""
    gc.disable()
    try:
        x, y = represent_pair(X, Y)
        MEASURES["rsa"].evaluate(x, y)
        MEASURES["rsa"].evaluate(x, y.permuted(torch.randperm(len(Y))))
        memory = weakref.ref(x.memory)
        del x, y
        assert memory() is None
    finally:
        gc.enable()


def test_memory_gives_up_what_was_used_least_recently():
    memory = Memory(limit=3 * EIGHTY)
    for key in "abc":
        memory.recall((key,), tenth)
    memory.recall(("a",), never)
    memory.recall(("d",), tenth)  # in place of b
    assert memory.size == 3 * EIGHTY
    for key in "cad":
        memory.recall((key,), never)
    with pytest.raises(AssertionError, match="computed again"):
        memory.recall(("b",), never)


def test_memory_makes_room_for_what_is_large():
    memory = Memory(limit=3 * EIGHTY)
    for key in "abc":
        memory.recall((key,), tenth)
    memory.recall(("large",), lambda: torch.zeros(25, dtype=torch.float64))
    assert memory.size == 200
    memory.recall(("too large",), lambda: torch.zeros(1000, dtype=torch.float64))
    assert memory.size == 8000
    memory.recall(("too large",), never)  # the last result is kept in any case
    memory.recall(("a",), tenth)
    assert memory.size == EIGHTY


def test_memory_counts_tuples_and_what_has_no_size():
    memory = Memory()
    memory.recall(("pair",), lambda: (tenth(), tenth()))
    memory.recall(("number",), lambda: 3.5)
    assert memory.size == 2 * EIGHTY


def test_memory_survives_an_error():
    memory = Memory()
    with pytest.raises(AssertionError):
        memory.recall(("a",), never)
    assert memory.size == 0
    memory.recall(("a",), tenth)
    assert memory.size == EIGHTY


def test_nested_results_are_all_counted():
    x = prepare(X)
    norm(x)
    assert x.memory.size == X.nbytes + 8  # centred, and its norm


@pytest.mark.matrix("cka", "jaccard", "rsa", "procrustes", "cca_mean")
@pytest.mark.parametrize("limit", [0, 1000, 100_000])
@pytest.mark.parametrize("name", MEASURES)
def test_little_memory_changes_no_value(name, limit):
    measure = MEASURES[name].using(**MEASURES[name].examples[0])
    memory = Memory(limit)
    value = measure.evaluate(prepare(X, memory), prepare(Y, memory))
    assert value == measure(X, Y)


# -- what is computed once ----------------------------------------------------------------------------------


def test_kept_is_computed_once_for_each_representation_and_option():
    calls = []

    @kept("n d")
    def multiple(x, factor):
        """Documented."""
        calls.append(factor)
        return factor * x.values

    x = prepare(X)
    y = prepare(Y, x.memory)
    assert multiple(x, 2) is multiple(x, 2)
    assert calls == [2]
    torch.testing.assert_close(multiple(y, 2), 2 * Y)
    multiple(x, 3)
    assert calls == [2, 2, 3]
    assert multiple.__doc__ == "Documented."


def test_kept_pair_is_computed_once_for_each_order():
    calls = []

    @kept_pair
    def cross(x, y, factor):
        calls.append(factor)
        return factor * x.values.T @ y.values

    x, y = prepare(X), prepare(Y)
    first = cross(x, y, 1)
    assert cross(x, y, 1) is first
    torch.testing.assert_close(cross(y, x, 1), first.T)
    cross(x, y, 2)
    assert calls == [1, 1, 2]


class Parts(NamedTuple):
    values: torch.Tensor
    of_units: torch.Tensor
    total: torch.Tensor
    cube: torch.Tensor


def test_kept_of_reordered_rows_is_reordered():
    calls = []

    @kept("n n")
    def gram(x):
        calls.append("gram")
        return x.values @ x.values.T

    @kept("n k", numbers_inputs=True)
    def nearest(x):
        calls.append("nearest")
        return torch.cdist(x.values, x.values).fill_diagonal_(torch.inf).topk(3, largest=False).indices

    @kept("n d", "d", "", "n d n")
    def parts(x):
        calls.append("parts")
        values = x.values
        return Parts(values, values.sum(0), values.sum(), values[:, :, None] * values[:, 0])

    x = prepare(X)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    for permuted in (x.permuted(order), x.permuted(order).permuted(order.argsort()).permuted(order)):
        assert torch.equal(permuted.values, X[order])
        anew = prepare(X[order])
        torch.testing.assert_close(gram(permuted), gram(anew))
        assert torch.equal(nearest(permuted), nearest(anew))
        for part, same in zip(parts(permuted), parts(anew), strict=True):
            torch.testing.assert_close(part, same)
        assert type(parts(permuted)) is Parts
    assert [calls.count(name) for name in ("gram", "nearest", "parts")] == [3, 3, 3]  # x, and anew twice


def test_permuted_has_a_memory_of_its_own():
    x = prepare(X, Memory(12345))
    permuted = x.permuted(torch.arange(20).flip(0))
    assert isinstance(permuted, Representation)
    assert permuted.origin is x
    assert permuted.memory is not x.memory
    assert permuted.memory.limit == 12345
    assert permuted.order.tolist() == list(range(19, -1, -1))


SETTINGS = [found.using(**example) for found in MEASURES.values() for example in found.examples]


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("width", [5, 40])
@pytest.mark.parametrize(
    "measure", [found for found in SETTINGS if found.options.get("k") != 20], ids=lambda found: found.label
)
def test_reordered_rows_give_every_measure_what_computing_anew_would(measure, width, known):
    x, y = random(20, width, seed=3), random(20, width, seed=3) + 0.5 * random(20, width, seed=4) + 0.3
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5))
    first, second = represent_pair(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if known:
            measure.evaluate(first, second)
        expected = measure(x, y[order])
        value = measure.evaluate(first, second.permuted(order))
    tolerance = 1e-6 if measure.name == "rtd" else 1e-9  # ripser computes in float32
    assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_a_permutation_keeps_nothing_alive_but_itself():
    first, second = represent_pair(X, Y)
    CKA.evaluate(first, second)
    before = first.memory.size
    for seed in range(3):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        CKA.evaluate(first, second.permuted(order))
    assert first.memory.size == before


# -- what most measures begin with --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [5, 20, 60])
def test_reduced_has_the_same_gram_in_fewer_columns(width):
    values = 3 + random(20, width)
    x = prepare(values)
    from_mean = values - values.mean(0)
    torch.testing.assert_close(centered(x), from_mean)
    assert reduced(x).shape == reduced_raw(x).shape == (20, min(width, 20))
    torch.testing.assert_close(reduced(x) @ reduced(x).T, from_mean @ from_mean.T)
    torch.testing.assert_close(reduced_raw(x) @ reduced_raw(x).T, values @ values.T)
    torch.testing.assert_close(norm(x), from_mean.norm())


def test_narrow_loses_nothing_of_a_low_rank():
    low = random(20, 3) @ random(3, 50, seed=1)
    gram = low @ low.T
    assert (narrow(low) @ narrow(low).T - gram).norm() < 1e-13 * gram.norm()
