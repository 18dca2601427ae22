"""Stitching options: the published defaults, what is refused, and one object for each way to stitch."""

import dataclasses
import math
import re

import pytest

from repsim.attacks import Attack
from repsim.studies.stitching import StitchOptions

PGD = {"method": "pgd", "epsilon": 0.1}
TRADES = {"method": "trades", "epsilon": 0.1}
DIRECT = ["least_squares", "pseudo_inverse", "orthogonal"]
FIELDS = [field.name for field in dataclasses.fields(StitchOptions)]

# One value of each field that is not its default, and allowed with PGD.
OTHER = {
    "flatten": True,
    "resize": True,
    "rank": 2,
    "initial": "identity",
    "mask": "semi_match",
    "norm": "l2",
    "epsilon": 0.2,
    "attack_steps": 3,
    "step_size": 0.01,
    "attack_ratio": 0.5,
    "attacked": "front",
    "targets": "soft_1",
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 0.1,
    "schedule": "constant",
    "optimizer": "sgd",
    "weight_decay": 0.0,
    "l1": 0.1,
    "cka_weight": -0.5,
    "augment": False,
    "update_batchnorm": True,
    "precision": "bfloat16",
    "save_every": 2,
    "seed": 1,
}


def test_the_defaults_are_the_published_ones():
    assert dataclasses.asdict(StitchOptions()) == {
        "flatten": False,
        "resize": False,
        "rank": 0,
        "initial": "random",
        "mask": "identity",
        "method": "standard",
        "ridge": 0.0,
        "norm": "linf",
        "epsilon": 0.0,
        "attack_steps": 10,
        "step_size": None,
        "attack_ratio": 1.0,
        "attacked": "stitched",
        "beta": 6.0,
        "targets": "hard",
        "temperature": 1.0,
        "epochs": 30,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "schedule": "thirds",
        "optimizer": "adam",
        "weight_decay": 1e-4,
        "l1": 0.0,
        "cka_weight": 0.0,
        "augment": True,
        "update_batchnorm": False,
        "precision": "float32",
        "save_every": 0,
        "seed": 0,
    }
    assert not StitchOptions().is_direct
    assert StitchOptions().attack is None


def test_trades_has_one_documented_beta_a_real_number():
    """Where the published code has the integer 1, and its documentation 10."""
    beta = StitchOptions(**TRADES).beta
    assert (beta, type(beta)) == (6.0, float)


# what is refused

NEAREST = {
    "method": (
        "trade",
        "unknown method 'trade'; did you mean 'trades'? Known: standard, pgd, trades, least_squares, "
        "pseudo_inverse, orthogonal.",
    ),
    "initial": (
        "identiti",
        "unknown initial 'identiti'; did you mean 'identity'? Known: random, identity, permutation, "
        "pseudo_inverse, ones, zeros.",
    ),
    "mask": (
        "semimatch",
        "unknown mask 'semimatch'; did you mean 'semi_match' or 'absolute_semi_match'? Known: identity, "
        "semi_match, absolute_semi_match, random_permutation.",
    ),
    "norm": ("linfinity", "unknown norm 'linfinity'; did you mean 'linf'? Known: linf, l2."),
    "attacked": (
        "stiched",
        "unknown attacked 'stiched'; did you mean 'stitched'? Known: stitched, front, end, both.",
    ),
    "targets": ("all", "unknown targets 'all'; known: hard, soft_1, soft_2, soft_12, soft_1_plus_2."),
    "schedule": (
        "1cycle",
        "unknown schedule '1cycle'; did you mean 'onecycle'? Known: thirds, constant, onecycle.",
    ),
    "precision": (
        "float16",
        "unknown precision 'float16'; did you mean 'bfloat16' or 'float32'? Known: float32, bfloat16.",
    ),
    "optimizer": ("adamw", "unknown optimizer 'adamw'; did you mean 'adam'? Known: adam, sgd."),
}
REFUSED = [
    *(({field: wrong}, message) for field, (wrong, message) in NEAREST.items()),
    *(
        ({field: 0}, f"{field} must be at least 1, not 0.")
        for field in ("epochs", "batch_size", "attack_steps")
    ),
    *(({field: -1}, f"{field} must be at least 0, not -1.") for field in ("rank", "save_every")),
    *(
        ({field: -0.5}, f"{field} must be at least 0, not -0.5.")
        for field in ("ridge", "beta", "learning_rate", "weight_decay", "l1", "attack_ratio")
    ),
    ({"l1": math.nan}, "l1 must be a finite number, not nan."),
    ({"temperature": 0}, "temperature must be above 0, not 0."),
    ({"cka_weight": math.inf}, "cka_weight must be a finite number, not inf."),
    ({"attack_ratio": 1.5}, "attack_ratio must be at most 1, not 1.5."),
    ({"epsilon": 0.1}, "method='standard' makes no attack: epsilon must be 0, not 0.1."),
    *(
        (
            {"method": method, "epsilon": 0.1},
            f"method={method!r} makes no attack: epsilon must be 0, not 0.1.",
        )
        for method in DIRECT
    ),
    (
        {"method": "pgd", "epsilon": -0.1},
        "epsilon must be a finite number ≥ 0 in pixel units, not -0.1.",
    ),
    (
        {"method": "trades", "epsilon": "8/0"},
        "epsilon must be a number or a fraction such as '8/255', not '8/0'.",
    ),
    *(
        (
            {**TRADES, "attacked": attacked},
            f"TRADES attacks the network that it trains: attacked={attacked!r} is for method='pgd'.",
        )
        for attacked in ("front", "end", "both")
    ),
    *(
        (
            {"method": method, "ridge": 0.1},
            f"ridge is of method='least_squares', not of {method!r}.",
        )
        for method in ("standard", "pgd", "trades", "pseudo_inverse", "orthogonal")
    ),
    *(
        (
            {"method": method, "mask": mask},
            f"mask={mask!r} is for task loss: direct matching uses every weight.",
        )
        for method, mask in zip(
            DIRECT, ("semi_match", "absolute_semi_match", "random_permutation"), strict=True
        )
    ),
    (
        {"method": "orthogonal", "rank": 2},
        "an orthogonal match has full rank: rank is for the other methods.",
    ),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        StitchOptions(**options)


@pytest.mark.usefixtures("unchecked")
def test_a_wrong_step_size_is_called_a_step_size():
    with pytest.raises(ValueError, match=r"^step_size must be a number"):
        StitchOptions(**PGD, step_size="wide")


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 1, "batch_size": 1, "rank": 0, "save_every": 0},
        {**TRADES, "beta": 0.0},
        {"ridge": 0.0, "learning_rate": 0.0, "weight_decay": 0.0, "l1": 0.0},
        {**PGD, "attack_steps": 1, "attack_ratio": 1.0},
        {"cka_weight": -1.0},
        {"method": "least_squares", "ridge": 0.1, "rank": 3},
        {"method": "pseudo_inverse", "rank": 3},
        *({**PGD, "attacked": attacked} for attacked in ("stitched", "front", "end", "both")),
    ],
)
def test_what_is_at_the_edge_is_allowed(options):
    found = StitchOptions(**options)
    assert {name: getattr(found, name) for name in options} == options


# one object for each way to stitch


@pytest.mark.parametrize(
    "options",
    [
        {"method": "pgd"},
        {"method": "trades"},
        {"method": "pgd", "epsilon": "0/255", "attacked": "both"},
        {"method": "trades", "beta": 3.0},
        {**PGD, "attack_ratio": 0.0},
        {**PGD, "attack_ratio": 0, "attacked": "front", "step_size": 0.1},
        {"norm": "l2", "attack_steps": 3, "step_size": 0.5, "attack_ratio": 0.5, "beta": 1.0},
        {"attacked": "front"},
        {"temperature": 4.0},
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_without_an_attack_there_is_one_standard_way(options):
    found = StitchOptions(**options)
    assert found == StitchOptions()
    assert found.attack is None


def test_no_share_attacked_is_still_trades_which_attacks_every_image():
    assert StitchOptions(**TRADES, attack_ratio=0.0) == StitchOptions(**TRADES)
    assert StitchOptions(**TRADES).attack is not None


def test_beta_is_of_trades_alone():
    assert StitchOptions(**PGD, beta=3.0) == StitchOptions(**PGD)
    assert StitchOptions(**TRADES, beta=3.0) != StitchOptions(**TRADES)


@pytest.mark.parametrize("targets", ["soft_1", "soft_2", "soft_12", "soft_1_plus_2"])
def test_temperature_is_of_soft_targets_alone(targets):
    soft = StitchOptions(targets=targets)
    assert dataclasses.replace(soft, temperature=4.0) != soft
    assert dataclasses.replace(soft, temperature=4.0, targets="hard") == StitchOptions()


@pytest.mark.parametrize("method", DIRECT)
def test_a_direct_match_has_no_training(method):
    plain = StitchOptions(method=method)
    assert plain.is_direct
    training = {
        name: value
        for name, value in OTHER.items()
        if name not in ("flatten", "resize", "rank", "mask", "epsilon")
    }
    for name, value in {**training, "beta": 3.0, "temperature": 2.0}.items():
        assert StitchOptions(method=method, **{name: value}) == plain, name
    for shaping in ("flatten", "resize"):
        assert StitchOptions(method=method, **{shaping: True}) != plain


def test_of_direct_matches_ridge_and_rank_count():
    least_squares = StitchOptions(method="least_squares")
    assert StitchOptions(method="least_squares", ridge=0.1) != least_squares
    assert StitchOptions(method="least_squares", rank=2) != least_squares
    assert StitchOptions(method="pseudo_inverse", rank=2) != StitchOptions(method="pseudo_inverse")


def test_with_an_attack_every_option_counts():
    plain = StitchOptions(**PGD)
    found = {dataclasses.replace(plain, **{name: value}) for name, value in OTHER.items()}
    soft = StitchOptions(**PGD, targets="soft_1")
    found |= {
        plain,
        StitchOptions(**TRADES),
        StitchOptions(**TRADES, beta=3.0),
        dataclasses.replace(soft, temperature=2.0),
        StitchOptions(method="least_squares"),
        StitchOptions(method="least_squares", ridge=0.1),
    }
    assert len(found) == len(OTHER) + 6
    assert {*OTHER, "method", "ridge", "beta", "temperature"} == {*FIELDS}


@pytest.mark.parametrize(
    ("name", "whole", "options"),
    [
        ("epsilon", 1, {"method": "pgd"}),
        ("step_size", 1, PGD),
        ("attack_ratio", 1, PGD),
        ("beta", 3, TRADES),
        ("ridge", 1, {"method": "least_squares"}),
        ("temperature", 2, {"targets": "soft_1"}),
        ("learning_rate", 1, {}),
        ("weight_decay", 0, {}),
        ("l1", 1, {}),
        ("cka_weight", -1, {}),
    ],
)
def test_a_whole_number_is_the_same_setting_as_a_float(name, whole, options):
    one, other = (StitchOptions(**{**options, name: kind(whole)}) for kind in (int, float))
    assert one == other
    assert type(getattr(one, name)) is type(getattr(other, name)) is float
    assert repr(one) == repr(other)


@pytest.mark.parametrize(
    "options", [{}, PGD, TRADES, {"method": "least_squares", "ridge": 1}, {**PGD, "attack_ratio": 0.0}]
)
def test_normalising_twice_changes_nothing(options):
    once = StitchOptions(**options)
    assert StitchOptions(**dataclasses.asdict(once)) == once


# the attack


def test_the_step_size_is_two_and_a_half_radii_over_all_steps_unless_given():
    assert StitchOptions(**PGD, attack_steps=5).attack == Attack(0.1, "linf", 5, 2.5 * 0.1 / 5)
    assert StitchOptions(**TRADES).attack.step_size == pytest.approx(2.5 * 0.1 / 10)
    assert StitchOptions(**PGD, norm="l2", step_size=0.04).attack == Attack(0.1, "l2", 10, 0.04)


@pytest.mark.usefixtures("unchecked")
def test_radii_and_steps_may_be_written_as_fractions():
    found = StitchOptions(method="pgd", epsilon="8/255", step_size="2/255")
    assert found == StitchOptions(method="pgd", epsilon=8 / 255, step_size=2 / 255)
    assert (found.attack.epsilon, found.attack.step_size) == (8 / 255, 2 / 255)


# by name


def test_an_unknown_name_is_answered_with_the_nearest():
    message = "unknown stitching option 'epoch'; did you mean 'epochs' or 'epsilon'?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        StitchOptions(epoch=3)
    with pytest.raises(
        ValueError, match=r"^unknown stitching option 'betas'; did you mean 'beta' or 'targets'\?"
    ):
        StitchOptions().but(betas=3.0)


def test_but_changes_what_it_names_and_nothing_else():
    plain = StitchOptions(**PGD, rank=2, seed=3)
    changed = plain.but(epochs=5, seed=4)
    assert dataclasses.asdict(changed) == {**dataclasses.asdict(plain), "epochs": 5, "seed": 4}
    assert plain.but() == plain
    assert plain.seed == 3


def test_but_checks_and_normalises():
    with pytest.raises(ValueError, match=r"^epochs must be at least 1, not 0\.$"):
        StitchOptions().but(epochs=0)
    assert StitchOptions(**PGD).but(epsilon=0) == StitchOptions()
    with pytest.raises(ValueError, match=r"^method='least_squares' makes no attack: epsilon must be 0"):
        StitchOptions(**PGD).but(method="least_squares")


# from mappings


def test_some_options_from_a_mapping():
    given = {"method": "pgd", "epsilon": "8/255", "step_size": "2/255", "cka_weight": -1, "flatten": True}
    found = StitchOptions.read(given)
    assert found == {**given, "epsilon": 8 / 255, "step_size": 2 / 255, "cka_weight": -1.0}
    assert StitchOptions(**found).attack == Attack(8 / 255, "linf", 10, 2 / 255)
    with pytest.raises(ValueError, match=r"^unknown stitching option 'epocs'; did you mean 'epochs'"):
        StitchOptions.read({"epocs": 40})
