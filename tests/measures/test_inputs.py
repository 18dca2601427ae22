"""What is taken for an array, and what is said of anything else, wherever arrays are given."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import nn

from repsim.measures import (
    MEASURES,
    PREDICTION_MEASURES,
    compare,
    compare_many,
    interval,
    permutation_test,
)
from repsim.studies.cka_maps.layer_maps import layer_cka

X, Y = torch.rand(2, 12, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU()).double().eval()
with torch.no_grad():  # in which no unit is dead
    NETWORK[1].weight.copy_(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) / 8)
    NETWORK[1].bias.fill_(0.5)
DRAWN = {"resamples": 20, "progress": False}
PERMUTED = {"permutations": 4, "progress": False}

# What takes arrays, and what it calls the one that is tried; of networks it is images, and else a table.
TAKING = {
    "a measure": ("x", lambda given: MEASURES["cka"](given, Y.flatten(1))),
    "compare": ("y", lambda given: compare(Y.flatten(1), given, "cka")["value"].item()),
    "compare_many": (
        "representations['b']",
        lambda given: compare_many({"a": Y.flatten(1), "b": given}, "cka", progress=False)["value"].item(),
    ),
    "interval": ("x", lambda given: interval("cka", given, Y.flatten(1), **DRAWN)),
    "permutation_test": ("y", lambda given: permutation_test("cka", Y.flatten(1), given, **PERMUTED)),
    "a prediction measure": ("b", lambda given: PREDICTION_MEASURES["agreement"](Y.flatten(1), given)),
    "an interval of predictions": ("x", lambda given: interval("agreement", given, Y.flatten(1), **DRAWN)),
    "a test of predictions": (
        "y",
        lambda given: permutation_test("agreement", Y.flatten(1), given, **PERMUTED),
    ),
    "layer_cka": (
        "images",
        lambda given: layer_cka(NETWORK, NETWORK, given, progress=False)["value"].tolist(),
    ),
}
everywhere = pytest.mark.parametrize("taking", TAKING)


def shaped(taking):
    return X if taking == "layer_cka" else X.flatten(1)


class Foreign:
    """An array of another library: it has a shape and a dtype, rows, and can be made a NumPy array."""

    def __init__(self, tensor):
        self.array = tensor.numpy()
        self.shape, self.dtype = self.array.shape, self.array.dtype

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype, copy=copy)

    def __getitem__(self, index):
        return self.array[index]


def read_only(tensor):
    array = tensor.numpy().copy()
    array.flags.writeable = False
    return array


# -- what is taken ------------------------------------------------------------------------------------------

TAKEN = {
    "float8_e4m3fn": (lambda x: x.to(torch.float8_e4m3fn), lambda x: x.to(torch.float8_e4m3fn).double()),
    "float8_e5m2": (lambda x: x.to(torch.float8_e5m2), lambda x: x.to(torch.float8_e5m2).double()),
    "a parameter": (nn.Parameter, lambda x: x),
    "part of a graph": (lambda x: x.clone().requires_grad_() * 0.5, lambda x: x * 0.5),
    "of a conjugate": (lambda x: torch.complex(x, -x).conj().real, lambda x: x),
    "negative bit": (lambda x: torch.complex(x, -x).conj().imag, lambda x: x),
    "not contiguous": (lambda x: x.transpose(0, -1).contiguous().transpose(0, -1), lambda x: x),
    "read-only": (read_only, lambda x: x),
}


@pytest.mark.matrix("a measure", "not contiguous")
@pytest.mark.parametrize(
    "taking", ["a measure", "compare_many", "permutation_test", "a prediction measure", "layer_cka"]
)
@pytest.mark.parametrize("kind", TAKEN)
def test_unusual_arrays_are_what_they_hold(taking, kind):
    give, mean = TAKEN[kind]
    call = TAKING[taking][1]
    found, expected = (np.ravel(call(way(shaped(taking)))) for way in (give, mean))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_floats_of_8_bits_are_of_half_precision():
    """At the least: what is not to be trusted with these is not with those."""
    with pytest.warns(UserWarning, match="features are of half precision"):
        MEASURES["cca_mean"](torch.randn(40, 3).to(torch.float8_e4m3fn), torch.randn(40, 3))


LARGEST = 2**53 - 1  # of which a float of 64 bits tells the neighbours apart


def whole_numbers(most):
    """Of 12 inputs and 3 units, up to the most, that have many digits in common."""
    return most - torch.randint(0, 2**40, (12, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [torch.int64, torch.uint64, np.int64, np.uint64])
def test_whole_numbers_are_taken_as_long_as_floats_tell_them_apart(kind):
    whole = whole_numbers(LARGEST)
    given = whole.to(kind) if isinstance(kind, torch.dtype) else whole.numpy().astype(kind)
    size = MEASURES["procrustes_size_shape"]
    assert size(given, Y.flatten(1)) == pytest.approx(size(whole - LARGEST, Y.flatten(1)))


@everywhere
@pytest.mark.parametrize("sign", [1, -1])
def test_whole_numbers_that_floats_do_not_tell_apart(taking, sign):
    name, call = TAKING[taking]
    with pytest.raises(ValueError, match=f"^{re.escape(name)} must not have whole numbers of 2⁵³ and more, "):
        call(sign * whole_numbers(2**62))


# -- what is refused, with what to do -----------------------------------------------------------------------

# {} is what the array is called
REFUSED = {
    "complex": (lambda x: x + 1j, "Tensor of torch.complex128: give {0}.real, {0}.imag or abs({0})."),
    "complex array": (
        lambda x: x.numpy() + 1j,
        "ndarray of complex128: give {0}.real, {0}.imag or abs({0}).",
    ),
    "objects": (lambda x: x.numpy().astype(object), "ndarray of object: give {0}.astype(float)."),
    "texts": (lambda x: x.numpy().astype("U9"), "ndarray of <U9: give {0}.astype(float)."),
    "records": (lambda x: np.zeros(12, [("a", float)]), "ndarray of [('a', '<f8')]."),
    "of SciPy, sparse": (
        lambda x: sparse.csr_array(x.flatten(1).numpy()),
        "csr_array of float64: give {0}.toarray().",
    ),
    "sparse": (
        lambda x: x.to_sparse(),
        "Tensor of torch.float64 that is sparse_coo: give {0}.to_dense().",
    ),
    "of MKL": (
        lambda x: x.float().to_mkldnn(),
        "Tensor of torch.float32 that is _mkldnn: give {0}.to_dense().",
    ),
    "a data frame": (
        lambda x: pd.DataFrame(x.flatten(1).numpy()),
        "DataFrame: give {0}.to_numpy(), whose rows are matched by their order.",
    ),
    "another library's": (Foreign, "Foreign of float64: give np.asarray({0})."),
    "lists": (lambda x: x.tolist(), "list: give np.asarray({0})."),
    "on the meta device": (
        lambda x: x.to("meta"),
        "Tensor of torch.float64 on the meta device, which holds no values: give one on another device.",
    ),
    "a text": (lambda x: "photos/", "str."),
}


@pytest.mark.matrix("a measure", "texts")
@everywhere
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_array_of_real_numbers(taking, kind):
    name, call = TAKING[taking]
    make, said = REFUSED[kind]
    expected = f"{name} must be a torch tensor or a NumPy array of real numbers, not {said.format(name)}"
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
        call(make(shaped(taking)))


@everywhere
@pytest.mark.usefixtures("unchecked")
def test_what_would_lose_its_mask(taking):
    name, call = TAKING[taking]
    message = (
        f"{name} must not be a NumPy masked array, whose mask would be lost: leave out the rows with masked"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        call(np.ma.masked_greater(shaped(taking).numpy(), 0.9))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's: prototypes
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), "give x.dequantize()"),
        (
            lambda x: torch.masked.masked_tensor(x, x > 0.1),
            "leave out the rows with masked values, and give x.get_data() of the others",
        ),
        (lambda x: torch.nested.nested_tensor([x[0], x[1, :3]]), "give rows of one length"),
        (
            lambda x: torch.nested.nested_tensor([x[0], x[1, :3]], layout=torch.jagged),
            "give rows of one length",
        ),
    ],
)
def test_tensors_that_do_not_hold_their_numbers_one_by_one(make, advice):
    with pytest.raises(TypeError, match=rf"^x must be .*, not \w*Tensor of [\w.]+: {re.escape(advice)}\.$"):
        TAKING["a measure"][1](make(X.flatten(1)))


@everywhere
@pytest.mark.parametrize("shape", [(), (0, 16)])
def test_what_has_no_rows(taking, shape):
    """Not a number, and no inputs."""
    name, call = TAKING[taking]
    expected = "|".join(
        [
            rf"{re.escape(name)} must .*\((n, d|n, classes|n, c, h, w)\).* shape {re.escape(str(shape))}",
            rf"{re.escape(name)} has 0 rows; a measure needs at least 4 inputs\.$",
        ]
    )
    for given in (torch.zeros(shape), np.zeros(shape)):
        with pytest.raises(ValueError, match=f"^({expected})"):
            call(given)
