"""All that notebooks are given is checked before anything starts, for runs and dry runs alike."""

import tomllib
from pathlib import Path
from typing import get_args

import pytest

from repsim.attacks.running import Norm
from repsim.cli import planning, scheduling
from repsim.cli.checking import CHECKS
from repsim.cli.kinds import KINDS, TAKE_TORCH
from repsim.cli.main import main
from repsim.explorer.setting import ATTACKS, INPUTS
from repsim.measures.hsic import Estimator
from repsim.studies.probing.options import Kind
from repsim.studies.stitching.moments import MATCHES
from repsim.studies.stitching.options import Attacked

# Number of a notebook, parameter, text → what is said.
REFUSED = [
    ("05", "seeds", "-1", "must be at least 1, not -1."),
    ("01", "sweep_seeds", "99999999", "must be at most 1000, not 99999999."),
    ("04", "jobs", "0", "must be at least 1, not 0."),
    ("04", "permutations", "-1", "must be at least 0, not -1."),
    ("02", "alphas", "[0.5, 2]", "must be a share in [0, 1], not 2.0."),
    ("07", "attack", "inf", "unknown attack 'inf'; known: pgd, fgsm."),
    ("00", "attacks", "[all]", "unknown attack 'all'; known: pgd, fgsm"),
    ("00", "attacks", "[]", "must not be an empty list."),
    (
        "01",
        "attack_kinds",
        "[{attack: pgd, norm: l2, epsilon: none}]",
        "epsilon must be a number or a fraction",
    ),
    ("01", "attack_kinds", "[{attack: snow, norm: l2}]", "the attack snow has the norm linf only."),
    ("06", "epsilon", "none", "epsilon must be a number or a fraction such as '8/255', not 'none'."),
    ("02", "cross_epsilon", "8/0", "epsilon must be a number or a fraction such as '8/255', not '8/0'."),
    ("00", "norm", "l3", "unknown norm 'l3'; did you mean 'l2'? Known: linf, l2."),
    ("00", "method", "trade", "unknown method 'trade'; did you mean 'trades'?"),
    ("00", "device", "cuda:99", "there is no device 'cuda:99' here"),
    ("00", "device", "gpu", "unknown device 'gpu'"),
    ("00", "model", "resnet_tinny", "unknown model 'resnet_tinny'; did you mean 'resnet_tiny'"),
    ("01", "widths", "[wrn_29_4]", "a WideResNet has 6n + 4 layers"),
    ("00", "dataset", "digit", "unknown data set 'digit'; did you mean 'digits'?"),
    ("00", "dataset", "folder:/nowhere", "there is no /nowhere."),
    ("04", "others", "[shape]", "unknown data set 'shape'; did you mean 'shapes'?"),
    ("04", "measures", "[ckaa]", "unknown measure 'ckaa'; did you mean 'cka'"),
    ("04", "judged", "procrustes", "claims are judged by a similarity, but procrustes is a distance."),
    (
        "03",
        "measures",
        "[procrustes, cka]",
        "claims are judged by a similarity, but procrustes is a distance.",
    ),
    ("04", "layer", "inf", "must be layers, or a fraction of them in (0, 1], not 'inf'."),
    ("03", "layer", "layer9", "unknown layer 'layer9'; did you mean "),
    ("01", "layers", "[2]", "a fraction of the layers must be in (0, 1], not 2.0."),
    ("01", "layers", "[layer2.0.relu2, penultimate]", "'penultimate' stands for layers by itself"),
    ("02", "cross_layers", "[layer9]", "unknown layer 'layer9'; did you mean "),
    ("07", "layers", "[blocks, layer9]", "unknown layer 'layer9'; did you mean "),
    ("00", "training", "{epoch: 3}", "unknown training option 'epoch'; did you mean 'epochs'"),
    ("00", "training", "{step_size: 8/0}", "step_size must be a number or a fraction"),
    ("02", "fitting", "{ridge: 1}", "ridge is of method='least_squares', not of 'standard'."),
    ("03", "inversion", "{momentum: 1}", "momentum must be below 1, not 1."),
    ("06", "probes", "{kind: ridge}", "unknown probe option 'kind'; known: penalty, pool"),
    ("00", "checkpoints", "{nope.pt: {epsilon: 0}}", "there is no file nope.pt."),
    ("00", "checkpoints", "{resnet_tine}", "unknown trained model 'resnet_tine'; did you mean"),
    ("00", "checkpoints", "{hf:a/b/c.pt: {epsilom: 0}}", "unknown checkpoint option 'epsilom'; did you mean"),
    (
        "00",
        "checkpoints",
        "{hf:a/b/c.pt: 3}",
        "options of hf:a/b/c.pt are a mapping, such as {epsilon: 8/255}",
    ),
    ("03", "pairs_files", "[nope.csv]", "there is no nope.csv."),
    ("03", "inverted_folder", "nowhere", "there is no nowhere."),
]


@pytest.fixture(autouse=True)
def started(monkeypatch, tmp_path):
    """What was started instead of kernels and plans; the notebooks are those of the checkout."""
    found = []
    (tmp_path / "notebooks").symlink_to(Path(__file__).parents[2] / "notebooks")
    monkeypatch.setattr(scheduling, "run", lambda jobs, workers: found.append("run") or [])
    monkeypatch.setattr(planning, "show", lambda plans: found.append("plan") or 0)
    return found


@pytest.mark.parametrize(
    ("number", "name", "text", "message"), REFUSED, ids=[f"{n}-{t}" for _, n, t, _ in REFUSED]
)
def test_what_is_refused_by_runs_and_dry_runs(number, name, text, message, started, capsys):
    for dry in ([], ["--plan"]):
        assert main(["run", number, "-p", name, text, *dry]) == 2
        assert f"repsim run: parameter '{name}' of {number}_" in (said := capsys.readouterr().err)
        assert f": {message}" in said
    assert started == []


def test_what_can_be_is_started(started):
    given = ["-p", "training", "{epochs: 3, step_size: 2/255}", "-p", "layers", "[conv1]", "-p", "seeds", "2"]
    assert main(["run", "01", "02", *given]) == 0
    assert main(["run", "01", *given, "--plan"]) == 0
    assert started == ["run", "plan"]


def test_layers_of_files_are_not_looked_for_before_they_are_read(started):
    assert main(["run", "04", "-p", "checkpoints", "{hf:a/b/c.pt}", "-p", "layer", "layer9"]) == 0
    assert started == ["run"]


def test_every_type_that_takes_torch_is_checked_with_it():
    assert set(CHECKS) == TAKE_TORCH <= set(KINDS)


def test_the_linter_knows_every_type():
    config = tomllib.loads(
        (Path(__file__).parents[2] / "notebooks" / "ruff.toml").read_text(encoding="utf-8")
    )
    assert set(config["builtins"]) == {*KINDS, "NonEmptyList", "OrEmpty"}


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("Norm", get_args(Norm)),
        ("Estimator", get_args(Estimator)),
        ("DirectMethod", MATCHES),
        ("Attacked", get_args(Attacked)),
        ("ProbeKind", get_args(Kind)),
        ("ExplorerAttack", ATTACKS),
        ("Inputs", INPUTS),
    ],
)
def test_names_are_those_of_the_package(kind, known):
    for name in known:
        KINDS[kind](name)
    with pytest.raises(ValueError, match=rf"known: {', '.join(known)}\.$"):
        KINDS[kind]("~")
