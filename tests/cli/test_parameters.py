"""Parameter cells only declare, and a typed text reads as the declared type or is refused."""

import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from repsim.cli import parameters
from repsim.cli.parameters import Notebook, RequestError, read_cell

CELL = """\
dataset: str = "digits"  # which pictures
count: int = 3  # how many
rate: float = 0.5
flag: bool = False  # on or off
names: list[str] = [
    "a",
]  # who
epsilons: list[float] = [0.0, 0.5]
note: str | None = None  # optional"""


def notebook(path, cell=CELL, prose="About nothing\n\n# A title\nprose"):
    """Write a notebook of prose and perhaps a parameter cell, and read it."""
    cells = [new_code_cell("pass"), new_markdown_cell(prose)]
    if cell is not None:
        cells.append(new_code_cell(cell, metadata={"tags": ["other", "parameters"]}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return Notebook.read(path)


@pytest.fixture
def one(tmp_path):
    return notebook(tmp_path / "00_one.ipynb")


def refusal(function, *arguments):
    with pytest.raises(RequestError) as refused:
        function(*arguments)
    return str(refused.value)


# -- what a notebook declares -------------------------------------------------------------------------------


def test_a_cell_declares_names_types_defaults_and_help():
    declared = read_cell(CELL, "00_one")
    assert [(each.name, each.type, each.default, each.help) for each in declared.values()] == [
        ("dataset", "str", "digits", "which pictures"),
        ("count", "int", 3, "how many"),
        ("rate", "float", 0.5, ""),
        ("flag", "bool", False, "on or off"),
        ("names", "list[str]", ["a"], "who"),
        ("epsilons", "list[float]", [0.0, 0.5], ""),
        ("note", "str | None", None, "optional"),
    ]
    assert list(declared) == [each.name for each in declared.values()]
    assert declared["note"].kind == str | None
    assert declared["names"].kind == list[str]


def test_an_empty_cell_declares_nothing():
    assert read_cell("# nothing yet\n", "00_one") == {}


@pytest.mark.parametrize(
    "line",
    [
        "count = 3",
        "import os",
        "count: int = 1 + len('a')",
        "when: date = 3",
        "n: int",
        "n: list = []",
        "a.b: int = 3",
        "n: int = {[]: 1}",
        "'a docstring'",
    ],
)
def test_a_cell_does_nothing_but_declare(line):
    assert refusal(read_cell, f"rate: float = 0.5\n{line}", "00_one") == (
        f"line 2 of the parameters of 00_one is `{line}`; every line must be `name: type = value  # help` "
        "with a plain value and a type made of str, int, float, bool, dict, None, list[…], | and the "
        "names in repsim/cli/kinds.py"
    )


def test_a_cell_is_python():
    message = "line 1 of the parameters of 00_one is not Python: invalid syntax"
    assert refusal(read_cell, "%matplotlib inline", "00_one") == message


def test_a_notebook_is_read_with_its_parameters(one):
    assert one.path.stem == "00_one"
    assert one.parameters == read_cell(CELL, "00_one")
    assert one.defaults["epsilons"] == [0.0, 0.5]
    assert [cell["cell_type"] for cell in one.content["cells"]] == ["code", "markdown", "code"]


def test_a_notebook_may_declare_nothing(tmp_path):
    bare = notebook(tmp_path / "00_one.ipynb", cell=None)
    assert bare.parameters == bare.defaults == bare.values({"count": "3"}) == {}


@pytest.mark.parametrize("content", ["not JSON", "{}", "[]", ""])
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "00_broken.ipynb"
    path.write_text(content)
    assert refusal(Notebook.read, path).startswith(f"{path} cannot be read as a notebook: ")


def test_the_listing_is_a_table(one):
    assert one.listing() == (
        "00_one  A title\n"
        "    dataset: str = 'digits'             which pictures\n"
        "    count: int = 3                      how many\n"
        "    rate: float = 0.5\n"
        "    flag: bool = False                  on or off\n"
        "    names: list[str] = ['a']            who\n"
        "    epsilons: list[float] = [0.0, 0.5]\n"
        "    note: str | None = None             optional"
    )


def test_the_listing_of_a_notebook_without_title_and_parameters(tmp_path):
    assert notebook(tmp_path / "00_one.ipynb", cell=None, prose="no heading").listing() == "00_one"


MAPPING = {"a": 0.001, "b": True, "c": "8/255", "d": "1", "e": None, "f": [1, "x"]}

# -- from typed texts to values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("007", str, "007"),
        ("1e5", str, "1e5"),
        ("[a]", str, "[a]"),
        ("null", str, "null"),
        ("", str, ""),
        ("1e5", float, 100000.0),
        ("3", float, 3.0),
        ("-1", int, -1),
        ("True", bool, True),
        ("false", bool, False),
        ("[007, on, 8/255, 'x, y', null]", list[str | None], ["007", "on", "8/255", "x, y", None]),
        ("[1e5, 2]", list[float], [100000.0, 2.0]),
        ("[[1], []]", list[list[int]], [[1], []]),
        ("[]", list[str], []),
        ("null", str | None, None),
        ("None", int | None, None),
        ("other", str | None, "other"),
        ("2", str | int, 2),
        ("null", list[int] | None, None),
        ("[1]", list[int] | None, [1]),
        ("{a: 1e-3, b: true, c: 8/255, d: '1', e: null, f: [1, x]}", dict, MAPPING),
        ("{a, b: {c: 1}}", dict, {"a": None, "b": {"c": 1}}),
        ("[pgd, {attack: pgd, epsilon: 1}]", list[str | dict], ["pgd", {"attack": "pgd", "epsilon": 1}]),
    ],
)
def test_the_declared_type_says_how_a_text_reads(text, kind, value):
    converted = parameters.convert(text, kind)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1e5", int),
        ("1.0", int),
        ("true", int),
        ("true", float),
        ("8/255", float),
        ("1", bool),
        ("yes", bool),
        ("a", list[str]),
        ("[a", list[str]),
        ("{a: b}", list[str]),
        ("[a, [b]]", list[str]),
        ("['1']", list[int]),
        ("[null]", list[str]),
        ("x", int | None),
        ("[a]", dict),
        ("epochs=3", dict),
        ("{a: 1, a: 2}", dict),
    ],
)
def test_a_text_of_another_type_is_refused(text, kind):
    with pytest.raises(ValueError, match=r"is not|while parsing|more than once"):
        parameters.convert(text, kind)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "1e5", "int (a whole number such as 3), not '1e5'"),
        ("rate", "fast", "float (a number such as 0.5 or 1e-3), not 'fast'"),
        ("flag", "1", "bool (true or false), not '1'"),
        ("epsilons", "0.1", "list[float] (in YAML, such as [a, b]), not '0.1'"),
    ],
)
def test_an_ill_typed_value_says_what_was_expected(one, name, text, expected):
    message = f"parameter '{name}' of 00_one must be {expected}"
    assert refusal(one.values, {name: text}) == message


def test_a_type_without_a_hint_is_named_alone(tmp_path):
    optional = notebook(tmp_path / "00_one.ipynb", cell="limit: int | None = None")
    message = "parameter 'limit' of 00_one must be int | None, not 'many'"
    assert refusal(optional.values, {"limit": "many"}) == message


def test_only_what_is_given_and_declared_is_set(one):
    given = {"rate": "1", "count": "4", "elsewhere": "x"}
    assert one.values(given) == {"count": 4, "rate": 1.0}


# -- parameter files ----------------------------------------------------------------------------------------


@pytest.fixture
def filed(tmp_path, one):
    """What the notebook makes of a parameter file of the given text."""

    def filed(text):
        file = tmp_path / "given.yaml"
        file.write_text(text)
        return one.values(parameters.read_file(file))

    return filed


def test_a_file_reads_as_the_command_line_does(filed):
    text = "dataset: 007\ncount: 4\nrate: 1e-3\nflag: True\nnames: [on, 'b c']\nnote:\n"
    assert filed(text) == {
        "dataset": "007",
        "count": 4,
        "rate": 0.001,
        "flag": True,
        "names": ["on", "b c"],
        "note": None,
    }


def test_quotes_make_a_text(filed):
    assert filed("note: 'null'") == {"note": "null"}
    assert type(filed("note: 'null'")["note"]) is str
    with pytest.raises(RequestError, match=re.escape('(a whole number such as 3), not "3"')):
        filed('count: "3"')


@pytest.mark.parametrize("text", ["true", "1.5", "[1]", "{a: b}", ""])
def test_a_file_is_checked_like_the_command_line(filed, text):
    with pytest.raises(
        RequestError, match=r"'count' of 00_one must be int \(a whole number such as 3\), not "
    ):
        filed(f"count: {text}")


def test_a_missing_text_is_not_an_empty_one(filed):
    assert refusal(filed, "dataset:") == "parameter 'dataset' of 00_one must be str (one text), not None"
    assert filed("dataset: ''") == {"dataset": ""}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "given.yaml"
    assert refusal(parameters.read_file, file).startswith(f"the parameter file {file} cannot be read: ")
    file.write_text("count: [")
    assert refusal(parameters.read_file, file).startswith(f"the parameter file {file} cannot be read: ")
    file.write_bytes(b"count: \xff")
    assert refusal(parameters.read_file, file).startswith(f"the parameter file {file} cannot be read: ")
    for text in ("- count", "count", ""):
        file.write_text(text)
        message = f"the parameter file {file} must hold lines `name: value`"
        assert refusal(parameters.read_file, file) == message


@pytest.mark.slow
def test_papermill_reads_the_same_declarations(one):
    command = [sys.executable, "-m", "papermill", "--help-notebook", str(one.path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"count: int \(default 3\)\s+how many", told)
    assert re.search(r'dataset: str \(default "digits"\)\s+which pictures', told)


# -- types of our own ---------------------------------------------------------------------------------------


@pytest.fixture
def typed(tmp_path):
    cell = """from __future__ import annotations

seeds: Seeds = 3
epsilons: list[Epsilon] = ["0", "8/255"]
epsilon: OrEmpty[Epsilon] = ""
kinds: NonEmptyList[ProbeKind] = ["ridge"]
training: TrainingOptions = {}"""
    return notebook(tmp_path / "00_one.ipynb", cell=cell)


def test_types_of_our_own_need_no_import(typed):
    assert typed.defaults == {
        "seeds": 3,
        "epsilons": ["0", "8/255"],
        "epsilon": "",
        "kinds": ["ridge"],
        "training": {},
    }
    given = {"seeds": "1000", "epsilons": "[]", "epsilon": "", "kinds": "[adam]", "training": "{epochs: 3}"}
    assert typed.values(given) == {
        "seeds": 1000,
        "epsilons": [],
        "epsilon": "",
        "kinds": ["adam"],
        "training": {"epochs": 3},
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("seeds", "many", " must be Seeds (a whole number such as 3), not 'many'"),
        ("seeds", "0", ": must be at least 1, not 0."),
        ("seeds", "1001", ": must be at most 1000, not 1001."),
        ("epsilons", "0.1", " must be list[Epsilon] (in YAML, such as [a, b]), not '0.1'"),
        ("epsilons", "[0, -1]", ": epsilon must be a finite number ≥ 0 in pixel units, not '-1'."),
        ("epsilon", "none", ": epsilon must be a number or a fraction such as '8/255', not 'none'."),
        ("kinds", "[]", ": must not be an empty list."),
        ("kinds", "[rigde]", ": unknown kind 'rigde'; did you mean 'ridge'? Known: ridge, logistic, adam."),
        ("training", "[a]", " must be TrainingOptions (in YAML, such as {epochs: 40}), not '[a]'"),
    ],
)
def test_what_a_type_of_our_own_refuses(typed, name, text, expected):
    assert refusal(typed.values, {name: text}) == f"parameter '{name}' of 00_one{expected}"
