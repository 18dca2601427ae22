"""What the package needs: declared, pinned, and no more than that for a script."""

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = (ROOT / "requirements.txt").read_text(encoding="utf-8")
# models of RobustBench need a package that installs from a repository alone, files of the hub no test
NOT_PINNED = ("robustbench", "hub")


def needed_by(requirements):
    """The installed distributions that requirements lead to, with extras only where they are asked for."""
    found, todo = {}, [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if not applies or key in found:
            continue
        found[key] = distribution = metadata.distribution(requirement.name)
        for extra in ("", *requirement.extras):
            todo += [(Requirement(text), extra) for text in distribution.requires or ()]
    return {name: distribution for (name, _), distribution in found.items()}


@pytest.fixture(scope="module")
def run_with_core(tmp_path_factory):
    """Run code in a Python that can import the standard library, this package and its core dependencies."""
    folder = tmp_path_factory.mktemp("core")
    for distribution in needed_by(PROJECT["dependencies"]).values():
        site = Path(distribution.locate_file(""))
        for part in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (folder / part).exists():
                (folder / part).symlink_to(site / part)
    (folder / "repsim").symlink_to(ROOT / "repsim")

    def run(code):
        path = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        command = [sys.executable, "-I", "-S", "-c", path + textwrap.dedent(code)]
        where = {**os.environ, "REPSIM_HOME": str(folder)}
        done = subprocess.run(command, capture_output=True, text=True, env=where)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


SCRIPT = """
    import importlib.util
    import torch
    import repsim
    notebooks = "jupyterlab papermill nbclient nbconvert nbformat ipykernel ipywidgets anywidget voila"
    assert [name for name in notebooks.split() if importlib.util.find_spec(name)] == []

    data = repsim.load_data("digits", train_size=100, test_size=40)
    images, labels = data.test.images, data.test.labels

    def network(seed):
        torch.manual_seed(seed)
        first = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten()
        return torch.nn.Sequential(*first, torch.nn.Linear(1024, 10)).eval()

    one, other = network(0), network(1)
    print(*repsim.layers(one, data.image_shape)["layer"])
    print(len(repsim.layer_cka(one, other, images, progress=False)))
    values = [repsim.capture(each, images, ["1"])["1"] for each in (one, other)]
    print(len(repsim.compare(*values, ["cka", "svcca", "jaccard(k=5)", "rtd(trials=2)"], pool=True)))
    print(len(repsim.stitch(one, other, "1", "1", images, labels, progress=False)[1]) > 1)
    print(len(repsim.invert(one, images[:2], images[2:4], "1", iterations=2, progress=False).curve))
    print(tuple(repsim.attack(one, images, labels, 0.1).shape))
"""


@pytest.mark.slow
def test_a_script_needs_no_notebooks(run_with_core):
    assert run_with_core(SCRIPT).split("\n") == ["0 1 2 3", "16", "4", "True", "3", "(40, 1, 16, 16)", ""]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("repsim.explorer", "the explorer needs the package .*: pip install 'robust-repsim[explorer]'"),
        ("repsim.cli.kernels", "notebooks that run .*: pip install 'robust-repsim[notebooks]'"),
    ],
)
def test_what_needs_an_extra_names_it(run_with_core, module, message):
    found = run_with_core(f"""
        try:
            import {module}
        except RuntimeError as error:
            print(error)
    """)
    assert re.fullmatch(message.replace("[", r"\[").replace("]", r"\]"), found.strip())


@pytest.mark.parametrize("extra", ["", *sorted({*PROJECT["optional-dependencies"]} - {*NOT_PINNED})])
def test_everything_is_pinned_to_a_version_that_the_ranges_allow(extra):
    pinned = {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", PINNED, re.M)
    }
    listed = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, listed):
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_version_stands_in_one_place():
    import repsim

    assert "version" in PROJECT["dynamic"]
    assert re.search(rf"^## {re.escape(repsim.__version__.partition('.dev')[0])} ", CHANGES, re.M)


def test_hooks_before_commits_are_the_linters_of_make():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.search(r"rev: v(\S+)", hooks)[1] == re.search(r"^ruff==(\S+)$", PINNED, re.M)[1]


CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
