"""`repsim run`: notebooks are found, parametrised, run in parallel and written atomically."""

import argparse
import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from repsim.cli import kernels, run, scheduling
from repsim.cli.jobs import plan, select
from repsim.cli.parameters import Notebook

read = Notebook.read

PARAMETERS = """\
dataset: str = "digits"  # which pictures
count: int = 3  # how many
rate: float = 0.5
flag: bool = False  # on or off
names: list[str] = [
    "a",
]  # who
epsilons: list[float] = [0.0, 0.5]
note: str | None = None  # optional"""
SHOW = "print((dataset, count, rate, flag, names, epsilons, note))"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty repository in a temporary folder."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path


def make(home, name, *sources, parameters=PARAMETERS, folder="notebooks"):
    """Write a notebook of a heading, a parameter cell and code cells."""
    cells = [new_markdown_cell(f"About nothing\n\n# Title of {name}\nprose")]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [new_code_cell(source) for source in sources]
    path = home / folder / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def command(*arguments):
    """What the command line would do."""
    parser = argparse.ArgumentParser(prog="repsim run")
    run.add_arguments(parser)
    return run.main(parser.parse_args([str(argument) for argument in arguments]))


def refusal(capsys, *arguments):
    """The message of a command that must be refused before anything runs."""
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("repsim run: ")
    return captured.err.removeprefix("repsim run: ").rstrip("\n")


def uncoloured(lines):
    """A traceback without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


def printed(path):
    """The text that the last cell of an executed notebook printed."""
    return nbformat.read(path, 4).cells[-1].outputs[0].text.strip()


def executed(home, name, dataset="digits"):
    return home / "figures" / "runs" / dataset / f"{name}.ipynb"


# -- choosing notebooks -------------------------------------------------------------------------------------


def test_notebooks_are_found_by_path_name_and_number(home, monkeypatch):
    second, first = make(home, "01_two"), make(home, "00_one")
    elsewhere = make(home, "mine", folder="elsewhere")
    (home / "notebooks" / ".ipynb_checkpoints").mkdir()
    (home / "notebooks" / ".ipynb_checkpoints" / "00_one-checkpoint.ipynb").write_text("{}")
    monkeypatch.chdir(home)

    assert select([]) == [first, second]
    assert select(["01"]) == select(["01_two"]) == select(["01_two.ipynb"]) == [second]
    assert select(["elsewhere/mine.ipynb", "00", "00_one"]) == [elsewhere, first]


def test_an_unknown_notebook_names_the_nearest(home, capsys):
    make(home, "00_models")
    make(home, "01_cka")
    message = "unknown notebook '00_model'; did you mean '00_models'? Known: 00_models, 01_cka."
    assert refusal(capsys, "00_model") == message
    assert refusal(capsys, "gone.ipynb") == "unknown notebook 'gone.ipynb'; known: 00_models, 01_cka."


def test_without_any_notebook_the_folder_is_named(home, capsys):
    assert refusal(capsys) == f"there is no notebook in {home / 'notebooks'}"


def test_a_broken_file_is_named(home, capsys):
    broken = home / "notebooks" / "00_broken.ipynb"
    broken.write_text("not JSON")
    assert refusal(capsys).startswith(f"{broken} cannot be read as a notebook: ")


def test_list_shows_titles_and_parameters(home, capsys):
    one, two = make(home, "00_one"), make(home, "01_two", parameters=None)
    assert command("--list") == 0
    out = capsys.readouterr().out
    assert out == f"{read(one).listing()}\n\n{read(two).listing()}\n"
    assert "    count: int = 3                      how many" in out.splitlines()
    assert not (home / "figures").exists()


# -- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("count", "1e5", "int (a whole number such as 3), not '1e5'"),
        ("epsilons", "0.1", "list[float] (in YAML, such as [a, b]), not '0.1'"),
    ],
)
def test_an_ill_typed_parameter_says_what_was_expected(home, capsys, name, text, expected):
    make(home, "00_one")
    assert refusal(capsys, "-p", name, text) == f"parameter '{name}' of 00_one must be {expected}"


def test_a_parameter_cell_that_computes_is_refused(home, capsys):
    make(home, "00_one", parameters="count = 3")
    assert refusal(capsys).startswith("line 1 of the parameters of 00_one is `count = 3`; every line must be")


def test_an_unknown_parameter_names_the_nearest(home, capsys):
    make(home, "00_one", parameters="count: int = 3")
    make(home, "01_two", parameters="dataset: str = 'digits'")
    make(home, "02_three", parameters=None)
    make(home, "03_four", parameters="")
    assert refusal(capsys, "-p", "cuont", "3") == (
        "unknown parameter 'cuont'; did you mean 'count'? Known: count, dataset."
    )
    assert refusal(capsys, "01", "-p", "count", "3") == "unknown parameter 'count'; known: dataset."
    assert refusal(capsys, "02", "03", "-p", "count", "3") == (
        "no cell tagged 'parameters' in 02_three, 03_four declares any: 'count' cannot be set"
    )


def test_a_parameter_reaches_only_the_notebooks_that_declare_it(home):
    one = read(make(home, "00_one", parameters="count: int = 3"))
    two = read(make(home, "01_two", parameters="dataset: str = 'digits'"))
    three = read(make(home, "02_three", parameters=None))
    jobs = plan([one, two, three], {"count": "4", "dataset": "pets"})
    assert [job.values for job in jobs] == [{"count": 4}, {"dataset": "pets"}, {}]


def test_a_parameter_file_is_refused_like_the_command_line(home, capsys):
    make(home, "00_one")
    file = home / "given.yaml"
    file.write_text("cuont: 3")
    assert refusal(capsys, "-f", file).startswith(
        "unknown parameter 'cuont'; did you mean 'count'? Known: dataset, count"
    )
    file.write_text("count: 1.5")
    assert refusal(capsys, "-f", file) == (
        "parameter 'count' of 00_one must be int (a whole number such as 3), not '1.5'"
    )
    file.unlink()
    assert refusal(capsys, "-f", file).startswith(f"the parameter file {file} cannot be read: ")


# -- running ------------------------------------------------------------------------------------------------


def test_values_arrive_in_the_notebook(home, capfd):
    source = make(home, "00_one", SHOW)
    before = source.read_bytes()
    file = home / "given.yaml"
    file.write_text("rate: 1\ncount: 4\nepsilons: [1e-3, 2]\nnote: 'null'\nflag: True\n")
    assert (
        command("00", "-p", "count", "5", "-p", "dataset", "007", "-p", "names", "[on, 'b c']", "-f", file)
        == 0
    )
    output = executed(home, "00_one", dataset="007")
    assert printed(output) == "('007', 5, 1.0, True, ['on', 'b c'], [0.001, 2.0], 'null')"
    tags = [cell.metadata.get("tags") for cell in nbformat.read(output, 4).cells]
    assert tags == [None, ["parameters"], ["injected-parameters"], None]
    assert source.read_bytes() == before

    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "start   00_one"
    seconds = lines[1].removeprefix("ok      00_one (").removesuffix(" s)")
    assert lines[2:] == [
        "",
        "notebook  status  seconds  output",
        f"00_one    ok      {seconds:>7}  {output}",
    ]


def test_two_notebooks_run_side_by_side_on_sockets_of_their_own(home, monkeypatch):
    """Each waits for the other, so they only end when both kernels live at once."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    meet = """
import json, os, sys, time, pathlib
from ipykernel.connect import get_connection_file
pathlib.Path(f"{mine}.here").touch()
deadline = time.monotonic() + 30
while not pathlib.Path(f"{other}.here").exists():
    assert time.monotonic() < deadline
    time.sleep(0.01)
connection = json.load(open(get_connection_file()))
print(json.dumps({
    "file": get_connection_file(), "ip": connection["ip"], "transport": connection["transport"],
    "cwd": os.getcwd(), "executable": sys.executable,
    "threads": [os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]],
    "bars": os.environ["TQDM_DISABLE"],
}))"""
    make(home, "00_a", meet, parameters="mine: str = 'a'\nother: str = 'b'")
    make(home, "01_b", meet, parameters="mine: str = 'b'\nother: str = 'a'")
    # A kernel of the same name that belongs to another environment must not be taken.
    foreign = home / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        json.dumps({"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.chdir(home)

    assert command("--jobs", 2, "--out", "executed") == 0
    a, b = (json.loads(printed(home / "executed" / f"{name}.ipynb")) for name in ("00_a", "01_b"))
    assert a["file"] != b["file"]
    assert a["ip"] != b["ip"]
    assert a["transport"] == b["transport"] == "ipc"
    assert not Path(a["file"]).parent.exists()
    assert a["cwd"] == b["cwd"] == str(home)  # the caller's: relative paths mean what they say
    assert a["bars"] == b["bars"] == "1"
    assert a["executable"] == b["executable"] == sys.executable
    assert a["threads"] == [str(max(1, scheduling.cores() // 2)), "7"]


@pytest.mark.slow
def test_progress_bars_may_be_asked_for(home, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    make(home, "00_one", "import os; print(os.environ['TQDM_DISABLE'])")
    assert command() == 0
    assert printed(executed(home, "00_one")) == "0"


@pytest.mark.slow
def test_a_long_temporary_folder_leaves_room_for_the_sockets(home, monkeypatch):
    long = home / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(kernels.tempfile, "tempdir", str(long))
    make(home, "00_one", SHOW)
    assert command() == 0
    assert list(long.iterdir()) == []


def test_a_failing_cell_is_named_and_the_others_go_on(home, capsys):
    make(home, "00_bad", "fine = 1", "\nvalue = {}  # empty\nvalue['missing']", "print('never')")
    make(home, "01_good", SHOW)
    assert command() == 1
    out = capsys.readouterr().out
    assert "failed  00_bad (" in out
    assert "ok      01_good (" in out
    assert "00_bad failed: cell 4 of 5, `value = {}  # empty`: KeyError: 'missing'" in out.splitlines()
    cells = nbformat.read(executed(home, "00_bad"), 4).cells
    assert cells[3].outputs[0].ename == "KeyError"
    assert "value['missing']" in uncoloured(cells[3].outputs[0].traceback)
    assert cells[4].outputs == []
    assert printed(executed(home, "01_good")).startswith("('digits', 3")


@pytest.mark.slow
def test_a_dead_kernel_is_a_failure_of_its_cell(home, capsys):
    make(home, "00_bad", "import os; os._exit(9)")
    assert command() == 1
    assert (
        "00_bad failed: cell 3 of 3, `import os; os._exit(9)`: DeadKernelError: Kernel died"
        in capsys.readouterr().out
    )
    assert nbformat.read(executed(home, "00_bad"), 4).cells[2].outputs[0].ename == "DeadKernelError"


@pytest.mark.slow
def test_a_kernel_that_does_not_start_is_a_failure(home, monkeypatch, capsys):
    make(home, "00_one", SHOW)
    never = {"argv": ["false"], "display_name": "never", "language": "python"}
    monkeypatch.setattr(kernels, "get_kernel_dict", lambda: never)
    forgotten = []
    monkeypatch.setattr(kernels.atexit, "unregister", forgotten.append)
    assert command() == 1
    assert "00_one failed: the kernel did not start: RuntimeError: Kernel died" in capsys.readouterr().out
    assert [method.__self__.nb.cells[-1].source for method in forgotten] == [SHOW]
    monkeypatch.undo()
    atexit.unregister(forgotten[0])


@pytest.mark.slow
def test_a_failed_rename_leaves_the_old_file(home, monkeypatch, capsys):
    make(home, "00_one", SHOW)
    output = executed(home, "00_one")
    output.parent.mkdir(parents=True)
    output.write_text("old")

    def no_rename(self, target):
        raise OSError("disk trouble")

    monkeypatch.setattr(Path, "replace", no_rename)
    assert command() == 1
    assert output.read_text() == "old"
    assert [path.name for path in output.parent.iterdir()] == ["00_one.ipynb"]
    assert f"00_one failed: cannot write {output}: disk trouble" in capsys.readouterr().out


@pytest.mark.matrix("False")
@pytest.mark.parametrize("stubborn", [False, True])
def test_an_interrupt_stops_the_kernels(home, monkeypatch, capsys, request, stubborn):
    # a shell's background jobs ignore interrupts, and so would this process
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(kernels, "GRACE", 0.5 if stubborn else 20)
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" if stubborn else "pass"
    monkeypatch.chdir(home)
    tell = "import os, pathlib; pathlib.Path('pid').write_text(str(os.getpid()))"
    make(home, "00_slow", f"{ignore}\n{tell}\nimport time; time.sleep(60)")
    make(home, "01_next", "pass")

    def interrupt():
        while not (home / "pid").exists() or not (home / "pid").read_text():
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    started = time.monotonic()
    assert command() == 130
    assert time.monotonic() - started < 15
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((home / "pid").read_text()), 0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [
        ["00_slow", "interrupted"],
        ["01_next", "interrupted"],
    ]
    assert not (home / "figures").exists()


# -- where results go ---------------------------------------------------------------------------------------


def test_the_data_set_names_the_folder(home):
    folder = read(make(home, "00_a", parameters="dataset: str = 'folder:/photos/cats'"))
    without = read(make(home, "01_b", parameters="dataset: str | None = None"))
    undeclared = read(make(home, "02_c", parameters="count: int = 3"))
    jobs = plan([folder, without, undeclared], {})
    assert [job.output for job in jobs] == [
        executed(home, "00_a", "cats"),
        executed(home, "01_b", "any"),
        executed(home, "02_c", "any"),
    ]
    (job,) = plan([folder], {"dataset": "digits"})
    assert job.output == executed(home, "00_a")


def test_outputs_never_collide(home, capsys):
    one, other = make(home, "00_a"), make(home, "00_a", folder="other")
    assert refusal(capsys, one, "--out", one.parent) == (
        f"the executed copy would replace {one}: choose another --out, or use --refresh"
    )
    assert refusal(capsys, one, other) == (
        f"{one} and {other} would both be written to {executed(home, '00_a')}"
    )


@pytest.mark.slow
def test_html_is_a_page_with_the_outputs(home):
    make(home, "00_one", 'print("what came out")')
    assert command("--html") == 0
    page = (home / "figures" / "runs" / "digits" / "00_one.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "what came out" in page
    assert "Title of 00_one" in page
    assert command() == 0  # without it, the page stays as it was
    assert (home / "figures" / "runs" / "digits" / "00_one.html").read_text() == page


# -- refresh ------------------------------------------------------------------------------------------------


def test_refresh_stores_outputs_and_nothing_that_changes(home):
    path = make(home, "00_one", SHOW)
    node = nbformat.read(path, 4)
    node.metadata.papermill = {"duration": 3}
    node.metadata.kernelspec = {"name": "mine", "display_name": "Mine", "language": "python"}
    node.cells[1].metadata.execution = {"iopub.status.busy": "2020-01-01"}
    node.cells[2].outputs = [nbformat.v4.new_output("stream", text="stale")]
    node.cells.insert(2, new_code_cell("count = 99", metadata={"tags": ["injected-parameters"]}))
    widget = "from IPython.display import display\nimport ipywidgets\ndisplay(ipywidgets.IntSlider(3))"
    node.cells.insert(3, new_code_cell(widget))
    nbformat.write(node, path)

    assert command("--refresh") == 0
    stored = nbformat.read(path, 4)
    assert printed(path) == "('digits', 3, 0.5, False, ['a'], [0.0, 0.5], None)"
    assert [cell.source for cell in stored.cells[1:]] == [PARAMETERS, widget, SHOW]
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2, 3]
    assert [cell.metadata for cell in stored.cells] == [{}, {"tags": ["parameters"]}, {}, {}]
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert stored.metadata.kernelspec.name == "python3"
    assert stored.cells[2].outputs[0].data == {"text/plain": "IntSlider(value=3)"}
    assert not (home / "figures").exists()

    first = path.read_bytes()
    assert first.endswith(b"}\n")
    assert command("--refresh") == 0
    assert path.read_bytes() == first


@pytest.mark.slow
def test_refresh_leaves_a_failing_notebook_alone(home, capsys):
    path = make(home, "00_one", "1 / 0")
    before = path.read_bytes()
    assert command("--refresh") == 1
    assert path.read_bytes() == before
    assert "cell 3 of 3, `1 / 0`: ZeroDivisionError: division by zero" in capsys.readouterr().out
    assert nbformat.read(executed(home, "00_one"), 4).cells[2].outputs[0].ename == "ZeroDivisionError"


@pytest.mark.parametrize("extra", [("-p", "count", "3"), ("-f", "given.yaml"), ("--out", "there")])
def test_refresh_takes_no_parameters(home, capsys, extra):
    make(home, "00_one")
    assert refusal(capsys, "--refresh", *extra) == (
        "--refresh stores what a notebook's own parameters give: no -p, -f or --out"
    )


# -- the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_jobs_is_a_positive_number(home, capsys, jobs):
    with pytest.raises(SystemExit):
        command(f"--jobs={jobs}")
    assert f"argument --jobs: must be a whole number, 1 or more, not '{jobs}'" in capsys.readouterr().err


def test_options_may_come_before_notebooks():
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    arguments = parser.parse_args(["-p", "count", "-3", "-p", "rate", "1", "--jobs", "2", "00", "01"])
    assert arguments.notebooks == ["00", "01"]
    assert arguments.given == [["count", "-3"], ["rate", "1"]]


@pytest.mark.slow
def test_plain_papermill_runs_such_a_notebook(home):
    source, output = make(home, "00_one", SHOW), home / "out.ipynb"
    subprocess.run(
        [sys.executable, "-m", "papermill", source, output, "-p", "count", "8", "-r", "dataset", "007"],
        check=True,
        capture_output=True,
    )
    assert printed(output) == "('007', 8, 0.5, False, ['a'], [0.0, 0.5], None)"


HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "pydantic",
    "nbformat",
    "nbclient",
    "papermill",
    "jupyter_client",
}


@pytest.mark.matrix("arguments3")
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--list"], ["run", "-p", "sede", "3"], ["run", "05", "-p", "seeds", "-1"]],
)
def test_what_runs_nothing_imports_nothing_that_takes_long(arguments):
    code = f"""
import contextlib, sys
from repsim.cli.main import main
with contextlib.suppress(SystemExit):
    main({arguments})
print(*{HEAVY} & {{*sys.modules}}, file=sys.stderr)"""
    checkout = {**os.environ, "REPSIM_HOME": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=checkout
    )
    assert done.stderr.splitlines()[-1] == ""
    assert len(done.stdout.splitlines()) > 10 or "repsim run: " in done.stderr


def test_where_nothing_can_be_written_nothing_runs(home, capsys):
    make(home, "00_one", SHOW)
    (home / "figures").write_text("a file in the way")
    output = executed(home, "00_one")
    assert refusal(capsys) == f"nothing can be written to {output.parent}: {home / 'figures'} is no folder"
    assert refusal(capsys, "--plan", "--out", home / "figures" / "x").endswith("is no folder")


def test_all_that_is_wrong_is_told_at_once(home, capsys):
    make(home, "00_one")
    assert refusal(capsys, "-p", "count", "x", "-p", "flag", "2").splitlines() == [
        "parameter 'count' of 00_one must be int (a whole number such as 3), not 'x'",
        "parameter 'flag' of 00_one must be bool (true or false), not '2'",
    ]


# -- what is committed --------------------------------------------------------------------------------------

SAVE = "from repsim.figures import plots\nimport pandas as pd\n"
SAVE += "plots.save_table(pd.DataFrame({'value': [count]}), dataset, '00_numbers');"


@pytest.mark.slow
def test_only_refresh_changes_what_is_committed(home, capsys):
    make(home, "00_one", SAVE)
    committed = home / "figures" / "digits" / "00_numbers.csv"
    assert command("--refresh") == 0
    assert committed.read_text() == "value\n3\n"
    assert not (home / "figures" / "runs").exists()
    assert "committed" not in capsys.readouterr().out
    assert command("-p", "count", "4") == 0
    assert committed.read_text() == "value\n3\n"
    assert (home / "figures" / "runs" / "digits" / "00_numbers.csv").read_text() == "value\n4\n"
    assert "Numbers differ by at most: absolute 1 (value in 00_numbers.csv)" in capsys.readouterr().out
