"""The table of rooms in docs/architecture.md, and what the package's files import."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `([\w/]+)/` \|", TABLE, flags=re.MULTILINE)
FILES = sorted((ROOT / "repsim").rglob("*.py"))


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    """Its place in the table; None for what is in no room."""
    inner = module.removeprefix("repsim.").replace(".", "/") + "/"
    return next((number for number, room in enumerate(ROOMS) if inner.startswith(f"{room}/")), None)


def imports_of(path):
    """The modules of the package that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "repsim":
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                place = ROOT / inner.replace(".", "/")
                yield inner if place.is_dir() or place.with_suffix(".py").exists() else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "repsim")


def test_the_table_lists_the_rooms_that_there_are():
    holds_code = {path.parent.relative_to(ROOT / "repsim").as_posix() for path in FILES}
    unlisted = {
        place for place in holds_code if not any(f"{place}/".startswith(f"{room}/") for room in ROOMS)
    }
    assert unlisted <= {".", "studies"}
    assert [room for room in ROOMS if not (ROOT / "repsim" / room).is_dir()] == []
    loose = {path.name for path in (ROOT / "repsim").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", [path for path in FILES if room_of(dotted(path)) is not None], ids=dotted)
def test_a_room_imports_only_from_rooms_above_it(path):
    own = room_of(dotted(path))
    below = [module for module in imports_of(path) if (room_of(module) or 0) > own]
    assert below == []


@pytest.mark.parametrize("path", sorted((ROOT / "repsim" / "studies").rglob("*.py")), ids=dotted)
def test_a_study_takes_of_another_only_what_it_exports(path):
    studies = [room.replace("/", ".") for room in ROOMS if room.startswith("studies/")]
    own = ROOMS[room_of(dotted(path))].replace("/", ".") if room_of(dotted(path)) is not None else ""
    inner = [
        module
        for module in imports_of(path)
        for study in studies
        if study != own and module.startswith(f"repsim.{study}.")
    ]
    assert inner == []


FRAGMENTS = re.compile(
    r"(And|As|Behind|But|By|For|From|How|If|In|Inside|Not|Of|On|Than|To|Under|Until|What|When|Where|Which|Who|"
    r"Whose|Why|With|Without)\b"
)


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_docstrings_begin_with_a_verb_or_a_noun(path):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, documented)
    ]
    first = [(ast.get_docstring(node) or "").split("\n")[0] for node in nodes]
    assert [line for line in first if FRAGMENTS.match(line)] == []
