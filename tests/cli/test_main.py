"""The command line: what it prints, and how it refuses."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repsim.attacks import Attack, Snow, fgsm
from repsim.cli import checking
from repsim.cli.kinds import KINDS
from repsim.cli.main import main
from repsim.cli.parameters import convert
from repsim.data import load_data
from repsim.measures import MEASURES, PREDICTION_MEASURES
from repsim.models import ARCHITECTURES, build_model
from repsim.studies.models.evaluation import transfer_table
from repsim.training import model_store, robust_accuracy, zoo

ROOT = Path(__file__).parents[2]
QUICK = ["--test-size", "60", "--steps", "2", "--epsilon", "0,1/10"]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", test_size=60)


@pytest.fixture(scope="module")
def models():
    """A standard and a robust committed network."""
    recipes = zoo.recipes(load_data("digits"), ["mlp"], [0.0, 0.1], [0])
    return [model_store.find(recipe, "cpu") for recipe in recipes]


@pytest.fixture
def refusal(capsys):
    """What is said of a command that cannot be run: one line, exit code 2 and nothing else."""

    def refusal(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("repsim: ")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("repsim: ").rstrip("\n")

    return refusal


def numbers(line):
    return [float(number) for number in re.findall(r"\d+\.\d+|\d+(?=\s|$)", line)]


# layers


def test_layers_of_an_architecture(capsys):
    assert main(["layers", "wrn_28_1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "operation", "shape", "layout", "parameters", "read", "stitch"]
    rows = [line.split(maxsplit=2) for line in lines[1:]]
    assert rows[0][:2] == ["conv1", "Conv2d"]
    assert rows[-1][:2] == ["fc", "Linear"]
    assert ["layer3.3.add", "add"] in [row[:2] for row in rows]
    assert "16 × 32 × 32" in rows[0][2]
    assert "normalize" not in [row[0] for row in rows]
    assert rows[0][2].split()[5:] == ["channels_first", "432", "traced", "1×1", "convolution"]
    assert rows[-1][2].split()[-1] == "linear"


def test_layers_say_what_stitches_them(capsys):
    assert main(["layers", "vit_tiny", "--image-shape", "1,16,16"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["conv_proj"].endswith(" 1×1 convolution")
    assert lines["encoder.ln"].endswith(" per-token linear")
    assert lines["heads.head"].endswith(" linear")


def test_layers_for_other_images_and_classes(capsys):
    assert main(["layers", "vgg_tiny", "--image-shape", "1, 16, 16", "--classes", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "8 × 16 × 16" in lines[1]
    assert lines[-1].split()[:3] == ["classifier", "Linear", "7"]


def test_layers_of_a_trained_model(capsys, models):
    for name in (models[0].name, models[0].recipe.address, str(models[0].path)):
        assert main(["layers", name]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1].split() == ["classifier", "Linear", "10", "vector", "25418", "traced", "linear"]


@pytest.mark.parametrize("shape", ["3,32", "3,32,0", "a,32,32", "x,3,32,32", "3;32;32", "3,32,-1", ""])
def test_a_shape_that_is_none(capsys, shape):
    with pytest.raises(SystemExit) as stopped:
        main(["layers", "wrn_28_1", f"--image-shape={shape}"])
    assert stopped.value.code == 2
    message = f"argument --image-shape: expected channels,height,width such as 3,32,32, not {shape!r}"
    assert message in capsys.readouterr().err


def test_layers_of_nothing_known(refusal):
    said = refusal("layers", "resnet_tyni")
    assert said.startswith("unknown trained model 'resnet_tyni'; did you mean 'resnet_tiny-")
    assert said.endswith(f" Architectures: {', '.join(ARCHITECTURES)}.")
    assert refusal("layers", "wrn_27_1") == "a WideResNet has 6n + 4 layers (10, 16, 22, 28, …), not 27."
    assert refusal("layers", "vit_tiny", "--image-shape", "3,30,30") == (
        "vit_tiny needs square images whose side 4 divides, not 30 × 30."
    )


# evaluate


def test_measures_lists_them_all(capsys):
    assert main(["measures"]) == 0
    out = capsys.readouterr().out
    assert all(f"| `{name}` " in out for name in (*MEASURES, *PREDICTION_MEASURES))


def test_measures_explains_one(capsys):
    assert main(["measures", "--explain", "jaccard(k=20)"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("jaccard(k=20, metric='cosine', center=False)\nsimilarity, [0, 1]; symmetric\n")
    assert "Traps: it depends on k" in out


def test_measures_explains_no_unknown_one(refusal):
    assert refusal("measures", "--explain", "jacard").startswith(
        "unknown measure 'jacard'; did you mean 'jaccard'"
    )


def test_evaluate(capsys, models, digits):
    names = [models[0].name, models[1].recipe.address]
    assert main(["evaluate", *names, *QUICK]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert len(blocks) == 2
    for block, model in zip(blocks, models, strict=True):
        lines = block.splitlines()
        assert lines[0] == f"{model.name} on 60 test images of digits"
        assert lines[1].split() == ["attack", "norm", "epsilon", "steps", "accuracy"]
        direct = robust_accuracy(model.network, digits.test, [Attack(0.0, steps=2), Attack(0.1, steps=2)])
        assert [float(line.split()[-1]) for line in lines[2:]] == direct["accuracy"].round(4).tolist()
        assert [float(line.split()[2]) for line in lines[2:]] == [0, 0.1]


def test_evaluate_under_several_attacks(capsys, models, digits):
    kinds = ["--attack", "snow, fgsm,pgd", "--epsilon", "0.2"]
    assert main(["evaluate", models[0].name, *QUICK, *kinds]) == 0
    lines = capsys.readouterr().out.strip().splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["snow", "fgsm", "pgd"]
    assert [line.split()[3] for line in lines] == ["2", "1", "2"]
    attacks = [Snow(0.2, steps=2), fgsm(0.2), Attack(0.2, steps=2)]
    direct = robust_accuracy(models[0].network, digits.test, attacks)["accuracy"]
    assert [float(line.split()[-1]) for line in lines] == direct.round(4).tolist()


def test_evaluate_takes_each_attacks_usual_steps(capsys, models):
    kinds = ["--attack", "pgd,gabor", "--epsilon", "0.1"]
    assert main(["evaluate", models[0].name, "--test-size", "20", *kinds]) == 0
    lines = capsys.readouterr().out.strip().splitlines()[-2:]
    assert [line.split()[3] for line in lines] == ["20", "20"]


def test_evaluate_with_transfer(capsys, models, digits):
    names = [model.name for model in models]
    assert main(["evaluate", *names, *QUICK, "--transfer", "--norm", "l2"]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    assert len(blocks) == 4
    heading, targets, source, *rows = blocks[3].splitlines()
    assert heading == "accuracy of targets on images made to fool sources, pgd l2 ε = 0.1"
    assert targets.split() == ["target", *sorted(names)]
    assert source.split() == ["source"]
    direct = transfer_table(models, digits.test, Attack(0.1, "l2", 2))
    table = direct.pivot(index="source", columns="target", values="accuracy").round(4)
    assert [row.split()[0] for row in rows] == sorted(names)
    assert [[float(number) for number in row.split()[1:]] for row in rows] == table.to_numpy().tolist()


def test_evaluate_leaves_the_store_as_it_is(models):
    before = models[0].path.read_bytes()
    assert main(["evaluate", models[0].name, *QUICK]) == 0
    assert models[0].path.read_bytes() == before


def test_evaluate_what_others_trained(capsys, refusal, models, tmp_path):
    file = tmp_path / "theirs.pt"
    torch.save(models[0].network.state_dict(), file)
    assert main(["evaluate", f"{{{file}: {{epsilon: 0}}}}", "--dataset", "digits", *QUICK]) == 0
    said = capsys.readouterr().out
    assert said.startswith("theirs.pt: state dict, mlp, standard, seed 0, accuracy ")
    own = robust_accuracy(models[0].network, load_data("digits", test_size=60).test, [Attack(0.1, steps=2)])
    assert said.split()[-1] == f"{own['accuracy'].item():.4f}"
    said = refusal("evaluate", f"{{{file}: {{epsilon: 0}}}}")
    assert said.strip() == f"{file} does not say on which images: name a data set with --dataset."


ODD = ["runs/lr=0.1,wd=5e-4/best.pt", "runs/a: b {c}.pt", "it's, so.pt"]


@pytest.mark.parametrize("name", ODD)
def test_a_file_may_be_called_as_it_is(capsys, models, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True, parents=True)
    torch.save({"state_dict": models[0].network.state_dict(), "epsilon": 0.0, "norm": "linf"}, name)
    torch.save(models[1].network.state_dict(), "other.pt")
    both = f"{{{name}: {{epsilon: 0}}, other.pt: {{epsilon: 0.1}}}}"
    assert main(["evaluate", both, "--dataset", "digits", *QUICK]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{Path(name).name}: ")
    assert "\nother.pt: state dict, mlp, ε = 0.1 (linf), seed 0, accuracy " in out
    assert convert(name, KINDS["Checkpoints"]) == {name: None}  # as -p checkpoints has it
    assert convert(both, KINDS["Checkpoints"]) == {name: {"epsilon": 0}, "other.pt": {"epsilon": 0.1}}


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_class_may_have_several_arguments(quote):
    text = "mine.nets:Net(width=4, shape=[1, 2])"
    given = f"{{a.pt: {{architecture: {quote}{text}{quote}, epsilon: 0}}, b.pt: }}"
    expected = {"a.pt": {"architecture": text, "epsilon": 0}, "b.pt": None}
    assert convert(given, KINDS["Checkpoints"]) == expected


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width, num_classes=10):
        super().__init__()
        self.hidden, self.head = nn.Linear(256, width), nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.hidden(images.flatten(1)).relu())
"""


def test_a_class_of_ones_own_in_every_command(capsys, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine_too.py").write_text(OWN)
    text = "mine_too:Net(width=5)"
    network = build_model(text, (1, 16, 16), 10, [0.0], [1.0])
    torch.save({"state_dict": {k: v for k, v in network.state_dict().items() if k[:5] != "norma"}}, "own.pt")
    assert main(["layers", text, "--image-shape", "1,16,16"]) == 0
    assert main(["layers", "own.pt", "--architecture", text]) == 0
    out = capsys.readouterr().out
    assert out.count("hidden") == 2
    assert "It holds no normalisation: when it is loaded, that of the data set's training images" in out
    given = f"{{own.pt: {{epsilon: 0, normalization: none, architecture: '{text}'}}}}"
    assert main(["evaluate", given, "--dataset", "digits", *QUICK]) == 0
    assert f"own.pt: checkpoint with its weights as 'state_dict', {text}, standard" in capsys.readouterr().out
    assert main(["convert", "own.pt", "own.safetensors", "--architecture", text]) == 0
    assert main(["layers", "own.safetensors", "--architecture", text]) == 0
    assert main(["check", "own.pt", "--dataset", "digits", "--architecture", text]) == 1  # untrained
    capsys.readouterr()
    assert refusal("layers", "own.pt", "--architecture", "mine_to:Net").startswith(
        "mine_to:Net: unknown module 'mine_to'; did you mean 'mine_too'?"
    )
    assert "unknown module 'mine_to'" in wrong_checkpoints("{own.pt: {architecture: 'mine_to:Net'}}")
    assert wrong_checkpoints(given) is None
    sys.modules.pop("mine_too", None)


def wrong_checkpoints(text):
    """What is wrong with a notebook's parameter `checkpoints`, before it runs; None where nothing is."""
    try:
        checking.CHECKS["Checkpoints"](convert(text, KINDS["Checkpoints"]), {})
    except ValueError as error:
        return str(error)


def test_evaluate_an_unknown_model(refusal, models):
    typo = models[0].name[:-1] + ("0" if models[0].name[-1] != "0" else "1")
    said = refusal("evaluate", typo)
    assert said.startswith(f"unknown trained model '{typo}'; did you mean '{models[0].name}'")


def test_images_that_a_model_cannot_classify(refusal, models, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(folder / "one.png")
    # told before any model is evaluated
    assert refusal("evaluate", models[0].name, "--dataset", f"folder:{tmp_path / 'pets'}") == (
        f"{models[0].name} has 10 classes and takes images of shape (1, 16, 16); pets has 2 classes and "
        "images of shape (3, 16, 16)."
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "digit"], "unknown data set 'digit'; did you mean 'digits'?"),
        (["--epsilon", "0,much"], "epsilon must be a number or a fraction such as '8/255', not 'much'."),
        (["--norm", "linfinity"], "unknown norm 'linfinity'; did you mean 'linf'?"),
        (["--attack", "pgd,snw"], "unknown attack 'snw'; did you mean 'snow'?"),
        (["--attack", "gabor", "--norm", "l2"], "the attack gabor has the norm linf only."),
        (["--steps", "0"], "an attack takes at least one step, not 0."),
        (["--test-size", "-3"], "test_size is a number of images, 0 for all, not -3."),
    ],
)
def test_evaluate_with_wrong_options(refusal, models, options, message):
    assert refusal("evaluate", models[0].name, *options).startswith(message)


def test_damaged_weights_are_said_without_a_traceback(refusal, models, tmp_path):
    for suffix in (".json", ".safetensors"):
        shutil.copy(models[0].path.with_suffix(suffix), tmp_path)
    weights = tmp_path / f"{models[0].name}.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert refusal("layers", weights).startswith(f"{weights} is damaged or was altered")


# zoo


def test_zoo_with_unknown_names(refusal):
    known = ", ".join(zoo.ZOOS)
    assert refusal("zoo", "digit") == f"unknown zoo 'digit'; did you mean 'digits'? Known: {known}."
    said = refusal("zoo", "digits", "--groups", "mian")
    assert said.startswith("unknown group of the digits zoo 'mian'; did you mean 'main'")


def test_zoo_passes_on_what_was_asked(monkeypatch, capsys, models):
    asked = []
    monkeypatch.setattr(zoo, "build", lambda *a, **o: asked.append((a, o)) or model_store.table(models))
    assert main(["zoo", "digits", "shapes", "--groups", "main", "l2", "--jobs", "3"]) == 0
    options = {"retrain": False, "jobs": 3}
    assert asked == [(("digits", ["main", "l2"]), options), (("shapes", ["main", "l2"]), options)]
    assert capsys.readouterr().out.count(models[0].name) == 2


# run


def test_run_lists_the_notebooks_of_the_repository(capsys, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "00_models.ipynb", tmp_path / "notebooks")
    assert main(["run", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("00_models  00 · The models")
    assert any(re.match(r"    dataset: DataSet = 'digits' +digits, shapes", line) for line in lines)


def test_run_refuses_an_unknown_notebook(capsys, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "00_models.ipynb", tmp_path / "notebooks")
    assert main(["run", "00_model"]) == 2
    assert capsys.readouterr().err == (
        "repsim run: unknown notebook '00_model'; did you mean '00_models'? Known: 00_models.\n"
    )


# the whole


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(
        re.search(rf"^ +{name} +\w", out, re.MULTILINE)
        for name in ("run", "layers", "measures", "evaluate", "check", "convert", "pack", "zoo")
    )


@pytest.mark.parametrize("command", ["run", "layers", "measures", "evaluate", "check", "pack", "zoo"])
def test_each_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: repsim " + command in capsys.readouterr().out


def test_without_a_command_it_says_what_there_is(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "the following arguments are required: command" in capsys.readouterr().err


def test_as_a_program_it_ends_with_the_commands_code_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "repsim", "evaluate", "nothing"],
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "error::DeprecationWarning:repsim"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("repsim: unknown trained model 'nothing'")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error():
    program = f"{sys.executable} -m repsim layers wrn_28_1 | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.split() == ["layer", "operation", "shape", "layout", "parameters", "read", "stitch"]
