"""Every notebook of the checkout: what it declares, and that it was stored as it ran."""

import ast
import re
import symtable
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from repsim.cli import checking
from repsim.cli.jobs import Job
from repsim.cli.parameters import Notebook, is_tagged

FILES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
assert FILES, "the checkout has no notebooks"
MACHINE_PATHS = ("/home/", "/tmp/", "/root/", "/Users/", "site-packages")

pytestmark = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def outputs(path):
    return [output for cell in code_cells(path) for output in cell.outputs]


def test_it_declares_its_parameters_in_one_cell(path):
    tagged = [cell for cell in code_cells(path) if is_tagged(cell, "parameters")]
    assert len(tagged) == 1
    assert not any(is_tagged(cell, "injected-parameters") for cell in code_cells(path))
    declared = Notebook.read(path).parameters
    assert "dataset" in declared
    assert [name for name, parameter in declared.items() if not parameter.help] == []
    assert [name for name, p in declared.items() if p.help != p.help.strip()] == []


@pytest.mark.matrix
def test_papermill_explains_every_parameter(path):
    declared = Notebook.read(path).parameters
    seen = papermill.inspect_notebook(path)
    assert {name: each["help"] for name, each in seen.items()} == {
        name: each.help for name, each in declared.items()
    }
    assert {name: each["inferred_type_name"] for name, each in seen.items()} == {
        name: each.type for name, each in declared.items()
    }
    assert {name: ast.literal_eval(each["default"]) for name, each in seen.items()} == {
        name: each.default for name, each in declared.items()
    }


def test_its_defaults_are_values_that_could_be_given(path):
    notebook = Notebook.read(path)
    given = {
        name: yaml.safe_dump(default, default_flow_style=True) for name, default in notebook.defaults.items()
    }
    given |= {name: text for name, text in notebook.defaults.items() if isinstance(text, str)}
    given = {name: text.removesuffix("\n").removesuffix("\n...") for name, text in given.items()}
    assert notebook.values(given) == notebook.defaults
    checking.check([Job(notebook, notebook.defaults, path)])


def test_it_defines_no_function_and_no_class(path):
    for cell in code_cells(path):
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda}, cell.source


def test_its_cells_are_short(path):
    limit = 8 if path.stem == "quickstart" else 15
    for cell in code_cells(path):
        assert is_tagged(cell, "parameters") or len(lines_of(cell)) <= limit, cell.source


def test_the_first_picture_comes_within_twenty_lines_of_code(path):
    cells = [cell for cell in code_cells(path) if not is_tagged(cell, "parameters")]
    shows = [any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in cells]
    assert sum(len(lines_of(cell)) for cell in cells[: shows.index(True) + 1]) <= 20


def test_no_parameter_is_bound_again(path):
    """Also not by an import, a loop, an unpacking or `:=`; names within comprehensions are their own."""
    declared = set(Notebook.read(path).parameters)
    for cell in code_cells(path):
        if not is_tagged(cell, "parameters"):
            bound = symtable.symtable(cell.source, "cell", "exec").get_symbols()
            again = {s.get_name() for s in bound if s.is_assigned() or s.is_imported()} & declared
            assert not again, cell.source


def test_it_was_stored_as_it_ran_from_top_to_bottom(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert any(output.output_type == "display_data" for output in outputs(path))


def test_nothing_went_wrong_in_it(path):
    assert [output.evalue for output in outputs(path) if output.output_type == "error"] == []
    assert [output.text for output in outputs(path) if output.get("name") == "stderr"] == []


def test_it_is_small_and_belongs_to_no_machine(path):
    assert path.stat().st_size < 1e6
    text = path.read_text(encoding="utf-8")
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", text)  # base 64 may spell anything
    assert [place for place in MACHINE_PATHS if place in without_pictures] == []
    metadata = nbformat.read(path, as_version=4).metadata
    assert metadata.kernelspec.name == "python3"
    assert set(metadata) <= {"kernelspec", "language_info"}


def test_a_cell_is_checked_against_what_is_stored(path):
    checked = [cell for cell in code_cells(path) if cell.source.startswith("# NBVAL_CHECK_OUTPUT")]
    assert checked
    assert all(cell.outputs for cell in checked)


def test_it_begins_with_a_title_and_valid_cells(path):
    node = nbformat.read(path, as_version=4)
    nbformat.validate(node)
    assert node.cells[0].cell_type == "markdown"
    title = "Quickstart" if path.stem == "quickstart" else path.stem[:2]
    assert re.match(rf"# {title} · \S", node.cells[0].source)
    assert all(cell.source.strip() for cell in node.cells)
