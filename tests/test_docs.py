"""The README and the pages of docs/: generated parts are up to date, and what they say to run runs."""

import importlib.util
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A block's first line is its language, and `slow` or `norun` where it takes long, or wants what is not here.
FENCE = re.compile(r"^```(python|sh)(?: (slow|norun))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ROOMS = "repsim|tests|docs|notebooks|figures|data|findings"
PATH = re.compile(rf"`((?:{ROOMS})/[\w./-]*)`|\]\(((?!https?:)[^)#\s]+)")
GENERATED = ("figures/runs", "data/comparisons", "data/probes", "notebooks/quickstart.ipynb")


def blocks(kind, language):
    """The blocks of each page that are of a language and a kind: slow, norun, or empty for the others."""
    found = {page.stem: FENCE.findall(page.read_text(encoding="utf-8")) for page in PAGES}
    chosen = {
        page: [code for *marks, code in fences if marks == [language, kind]] for page, fences in found.items()
    }
    return {page: codes for page, codes in chosen.items() if codes}


def marked(kind, language):
    """The same as parameters of a test: the README's in the quick set, the pages' in the whole one."""
    return [
        pytest.param(codes, id=page, marks=[] if page == "README" else pytest.mark.slow)
        for page, codes in blocks(kind, language).items()
    ]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder like a fresh checkout, in which commands find notebooks and parameter files, and write."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    for file in (ROOT / "figures").glob(
        "*/*.yaml"
    ):  # those in figures/runs/ lie deeper: no checkout has them
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(script, folder):
    environment = {
        **os.environ,
        "REPSIM_HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TQDM_DISABLE": "1",
    }
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_generated_parts_are_what_the_tables_say_now(generate, path):
    text = path.read_text(encoding="utf-8")
    assert generate.regenerated(text) == text, "run python docs/generate.py"


def test_the_readme_is_read():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert text.index("make figures") < text.index("\n![") < text.index("## Findings")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_paths_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for named, linked in PATH.findall(text):
        if not f"{named}{linked}".startswith(GENERATED):
            place = ROOT / named if named else path.parent / linked
            assert place.exists(), f"{path.name}: {named or linked}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_names_are_those_of_the_package(path):
    for name in re.findall(r"\brepsim(?:\.[A-Za-z]\w*)+", path.read_text(encoding="utf-8")):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("found", marked("", "python"))
def test_python_blocks_run_one_after_the_other(found, checkout):
    script = "\n".join(["import warnings", "warnings.simplefilter('ignore')", *found])
    run(f"{sys.executable} - <<'SCRIPT'\n{script}\nSCRIPT", checkout)


@pytest.mark.parametrize("found", marked("", "sh"))
def test_commands_run(found, checkout):
    run("\n".join(found), checkout)


@pytest.mark.slow
@pytest.mark.parametrize("found", marked("slow", "sh"))
def test_long_commands_run(found, checkout):
    run("\n".join(found), checkout)


def test_every_erratum_that_is_cited_is_listed():
    text = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    listed = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert listed == list(range(1, len(listed) + 1))
    cited = set()
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "repsim").rglob("*.py")]:
        if path != Path(__file__):
            cited |= _numbers(path.read_text(encoding="utf-8"))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            cited |= _numbers("".join(cell["source"]))
    assert cited
    assert cited <= set(listed)


def _numbers(text):
    groups = re.findall(r"\berrat(?:um|a) (\d+(?:(?:, | and )\d+)*)", text)
    return {int(number) for group in groups for number in re.findall(r"\d+", group)}
