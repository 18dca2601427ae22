"""Run notebooks headless, strictly and in parallel: the command `repsim run`.

The file reads in the order in which things happen: choose notebooks, give them their values, run one in
its own kernel, run many, and the command line around it.

papermill words the injected cell, nbclient drives the kernel. `papermill.execute_notebook` itself would not
do: it changes the working directory of the whole process, so two notebooks could not run side by side, and
its kernels take TCP ports that two kernels started at once can both believe to be free. Here every kernel
talks over Unix sockets in a folder of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from papermill.translators import translate_parameters

from repsim.cli.parameters import Notebook, RequestError, is_tagged, read_file
from repsim.support import messages, paths
from repsim.support.artifacts import atomic

GRACE = 3.0  # seconds that an interrupted cell has to tidy up before its kernel is killed
SOCKET_FOLDER_LIMIT = 70  # a socket's path has room for some 100 characters, file name included
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
UNTIMELY = ("execution", "papermill", "ExecuteTime")  # metadata that differs from run to run
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
NO_DATASET = "any"  # the folder below figures/ of notebooks that have no `dataset` parameter


def select(names: Iterable[str]) -> list[Path]:
    """Find notebooks by path, file name, stem or number; all of `notebooks/` when no name is given.

    Raises
    ------
    RequestError
        A name fits no notebook, or there is none at all.
    """
    found = sorted(paths.notebooks().glob("*.ipynb"))
    selected: list[Path] = []
    for name in names:
        matches = [path for path in found if name in (path.name, path.stem, path.stem.split("_")[0])]
        if name.endswith(".ipynb") and Path(name).is_file():
            matches = [Path(name).resolve()]
        if not matches:
            raise RequestError(messages.unknown("notebook", name, [path.stem for path in found]))
        selected += matches
    if not selected and not found:
        raise RequestError(f"there is no notebook in {paths.notebooks()}")
    return list(dict.fromkeys(selected)) or found


@dataclass(frozen=True)
class Job:
    """A notebook, the values it is given, and where its executed copy goes."""

    notebook: Notebook
    values: dict[str, object]
    output: Path
    refresh: bool = False  # store the outputs in the notebook itself; `output` is for a failed run only
    html: bool = False  # write a page beside the executed copy, to be read without Jupyter

    @property
    def name(self) -> str:
        """The notebook's file name without its suffix."""
        return self.notebook.path.stem


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job: `status` is "ok", "failed" or "interrupted"; `error` says where and why."""

    job: Job
    status: str
    seconds: float = 0.0
    output: Path | None = None
    error: str = ""


def plan(
    notebooks: list[Notebook],
    given: Mapping[str, object],
    out: Path | None = None,
    *,
    refresh: bool = False,
    html: bool = False,
) -> list[Job]:
    """Give each notebook the parameters it declares; it goes to `out` or `figures/<dataset>/notebooks/`.

    Raises
    ------
    RequestError
        No notebook declares a given parameter, a value is not of its type, two executed notebooks would
        have one name, or one would replace a notebook that is to run.
    """
    known = list(dict.fromkeys(name for notebook in notebooks for name in notebook.parameters))
    for name in given:
        if not known:
            stems = ", ".join(notebook.path.stem for notebook in notebooks)
            raise RequestError(f"no cell tagged 'parameters' in {stems} declares any: {name!r} cannot be set")
        if name not in known:
            raise RequestError(messages.unknown("parameter", name, known))
    sources = {notebook.path.resolve() for notebook in notebooks}
    jobs: dict[Path, Job] = {}
    for notebook in notebooks:
        path, values = notebook.path, notebook.values(given)
        dataset = (notebook.defaults | values).get("dataset")
        slug = NO_DATASET if dataset is None else paths.dataset_slug(str(dataset))
        output = (out.resolve() if out else paths.figures(slug) / "notebooks") / path.name
        if output.resolve() in sources:
            raise RequestError(
                f"the executed copy would replace {output}: choose another --out, or use --refresh"
            )
        if output in jobs:
            raise RequestError(f"{jobs[output].notebook.path} and {path} would both be written to {output}")
        jobs[output] = Job(notebook, values, output, refresh, html)
    return list(jobs.values())


# -- one notebook in its own kernel -------------------------------------------------------------------------


@dataclass
class Kernels:
    """The kernels that were started, so that an interrupt can stop them all."""

    managers: list[AsyncKernelManager] = field(default_factory=list)
    stopping: Event = field(default_factory=Event)

    def stop(self, running: Iterable[Future]) -> None:
        """Interrupt every kernel, and kill those that are still there after a few seconds."""
        self.stopping.set()
        with suppress(KeyboardInterrupt):  # a second, impatient Ctrl-C only ends the waiting
            self._signal(signal.SIGINT)
            wait(running, timeout=GRACE)
        while wait(running, timeout=0.1).not_done:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for manager in list(self.managers):
            process = getattr(manager.provisioner, "process", None)  # None before the start and after the end
            if process is not None and process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)  # a kernel leads a group: its own worker processes go too


class _ThisInterpreter(KernelSpecManager):
    """Knows one kernel, the running interpreter, whatever `python3` means in the user's Jupyter folders."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


@contextmanager
def _kernel_manager() -> Iterator[AsyncKernelManager]:
    """A kernel manager whose sockets and connection file lie in a private, short-named folder."""
    short = len(os.fsencode(tempfile.gettempdir())) <= SOCKET_FOLDER_LIMIT
    with tempfile.TemporaryDirectory(prefix="repsim-", dir=None if short else "/tmp") as folder:
        yield AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=_ThisInterpreter(),
            transport="ipc",
            ip=f"{folder}/socket",
            connection_file=f"{folder}/kernel.json",
        )


def execute(job: Job, kernels: Kernels, threads: int) -> Outcome:
    """Run one notebook and write the executed copy, complete or up to the failing cell.

    The kernel's working directory is the caller's, so that relative paths in parameters mean what they say.

    `kernels` lists the kernel while it runs; `threads` are for its linear algebra, unless the user's
    environment says how many.
    """
    started = time.monotonic()
    node = _prepared(job)
    reached: dict[str, int] = {}  # nbclient does not say which cell failed
    # nobody watches bars that end up in a file
    environment = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"TQDM_DISABLE": "1"} | os.environ
    error = ""
    try:
        with _kernel_manager() as manager:
            kernels.managers.append(manager)
            client = NotebookClient(
                node,
                km=manager,
                timeout=None,
                record_timing=False,
                coalesce_streams=True,
                resources={"metadata": {"path": str(Path.cwd())}},
                on_cell_start=lambda cell, cell_index: reached.update(index=cell_index),
            )
            try:
                asyncio.run(client.async_execute(cleanup_kc=True, env=environment))
            finally:  # nbclient forgets to when a kernel does not start, and would complain as Python ends
                atexit.unregister(client._cleanup_kernel)
    except Exception as caught:  # whatever one notebook meets, the others go on
        error = _describe(node, reached.get("index"), caught)
    if kernels.stopping.is_set():
        return Outcome(job, "interrupted", time.monotonic() - started)
    output = job.notebook.path if job.refresh and not error else job.output
    try:
        with atomic(output) as temporary:
            text = nbformat.writes(_stable(node) if job.refresh else node)
            temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        if job.html:
            from nbconvert import HTMLExporter  # takes a second to import

            with atomic(job.output.with_suffix(".html")) as temporary:
                temporary.write_text(HTMLExporter().from_notebook_node(node)[0], encoding="utf-8")
    except OSError as caught:
        error = f"{error + '; ' if error else ''}cannot write {output}: {caught}"
        output = None
    return Outcome(job, "failed" if error else "ok", time.monotonic() - started, output, error)


def _prepared(job: Job) -> NotebookNode:
    """A copy to execute: without old outputs, with the values in a cell after the parameter cell."""
    node = nbformat.from_dict(job.notebook.node)
    node.cells = [cell for cell in node.cells if not is_tagged(cell, "injected-parameters")]
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    node.metadata.kernelspec = KERNEL
    if job.values:
        source = translate_parameters("python3", "python", job.values, "Parameters")
        injected = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
        declaring = next(i for i, cell in enumerate(node.cells) if is_tagged(cell, "parameters"))
        node.cells.insert(declaring + 1, injected)
    return node


def _describe(node: NotebookNode, index: int | None, error: Exception) -> str:
    """Describe which cell failed and why; a dead kernel is also told in the output of its last cell."""
    name, message = type(error).__name__, str(error)
    if isinstance(error, CellExecutionError):
        name, message = error.ename, error.evalue
    reason = f"{name}: {message}".strip().removesuffix(":")
    if index is None:
        return f"the kernel did not start: {reason}"
    cell = node.cells[index]
    if not isinstance(error, CellExecutionError) and cell.cell_type == "code":
        cell.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=message, traceback=[reason]))
    first_line = next(iter(cell.source.strip().splitlines()), "")
    return f"cell {index + 1} of {len(node.cells)}, `{first_line}`: {reason}"


def _stable(node: NotebookNode) -> NotebookNode:
    """The notebook without what differs from run to run, ready to be committed."""
    kept = ("kernelspec", "language_info")
    node.metadata = {name: node.metadata[name] for name in kept if name in node.metadata}
    for cell in node.cells:
        for name in UNTIMELY:
            cell.metadata.pop(name, None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)  # points to a random id; the text beside it stays
    return node


# -- many notebooks -----------------------------------------------------------------------------------------


def run(jobs: list[Job], workers: int = 1) -> list[Outcome]:
    """Run notebooks, `workers` at a time, telling on stdout when each begins and ends.

    Returns one outcome per job, in the order of `jobs`. Ctrl-C stops every kernel; what it cut short, or what
    had not begun, is "interrupted".
    """
    workers = max(1, min(workers, len(jobs)))
    kernels = Kernels()

    def one(job: Job) -> Outcome:
        _say(f"start   {job.name}")
        outcome = execute(job, kernels, threads=max(1, cores() // workers))
        _say(f"{outcome.status:<7} {job.name} ({outcome.seconds:.1f} s)")
        return outcome

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            wait(futures)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.stop([future for future in futures if not future.cancelled()])
    return [
        Outcome(job, "interrupted") if future.cancelled() else future.result()
        for job, future in zip(jobs, futures, strict=True)
    ]


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say(line: str) -> None:
    """Print a line in one piece, though several threads print."""
    print(f"{line}\n", end="", flush=True)


def summary(outcomes: list[Outcome]) -> str:
    """A table of notebook, status, seconds and output path; then a line for every failure."""
    rows = [("notebook", "status", "seconds", "output")]
    rows += [(o.job.name, o.status, f"{o.seconds:.1f}", str(o.output or "–")) for o in outcomes]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{n:<{widths[0]}}  {s:<{widths[1]}}  {t:>{widths[2]}}  {path}" for n, s, t, path in rows]
    lines += [f"{outcome.job.name} failed: {outcome.error}" for outcome in outcomes if outcome.error]
    return "\n".join(lines)


# -- the command --------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `repsim run`."""
    add = parser.add_argument
    chosen = "a path, a name or a number such as 01; all of notebooks/ by default"
    add("notebooks", nargs="*", metavar="NOTEBOOK", help=chosen)
    setting = "set a parameter in every notebook that declares it; lists in YAML: '[a, b]'"
    add("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=setting)
    add("-f", dest="file", type=Path, metavar="FILE", help="a YAML file of parameters; -p wins over it")
    add("--jobs", type=_at_least_one, default=1, metavar="N", help="how many notebooks run at once (1)")
    add("--out", type=Path, metavar="DIR", help="where executed notebooks go (figures/<dataset>/notebooks/)")
    add("--list", action="store_true", help="show the notebooks and their parameters; run nothing")
    add("--html", action="store_true", help="write each executed notebook as a web page, too")
    add("--plan", action="store_true", help="say what would be computed, how long and how large; run nothing")
    storing = "store the outputs in the notebooks themselves; takes no -p, -f, --out"
    add("--refresh", action="store_true", help=storing)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Do what the arguments of `repsim run` ask.

    Returns 0 when every notebook ran (or could, by its plan), 1 when one failed (or lacks something), 2 when
    the request cannot be run as it stands, 130 after an interrupt.
    """
    try:
        notebooks = [Notebook.read(path) for path in select(arguments.notebooks)]
        if arguments.list:
            print("\n\n".join(notebook.listing() for notebook in notebooks))
            return 0
        if arguments.refresh and (arguments.given or arguments.file or arguments.out):
            raise RequestError("--refresh stores what a notebook's own parameters give: no -p, -f or --out")
        if arguments.plan and arguments.file and not arguments.file.is_file():
            print(f"missing: the parameter file {arguments.file}")
            return 1
        filed = read_file(arguments.file) if arguments.file else {}
        jobs = plan(
            notebooks,
            filed | dict(arguments.given),
            arguments.out,
            refresh=arguments.refresh,
            html=arguments.html,
        )
    except RequestError as error:
        print(f"repsim run: {error}", file=sys.stderr)
        return 2
    if arguments.plan:
        from repsim.cli import planning  # torch takes seconds to import

        return planning.show((job.name, job.notebook.defaults | job.values) for job in jobs)
    outcomes = run(jobs, arguments.jobs)
    print(f"\n{summary(outcomes)}")
    statuses = {outcome.status for outcome in outcomes}
    return 130 if "interrupted" in statuses else int("failed" in statuses)
