"""Run one notebook in a kernel of its own.

papermill words the injected cell, nbclient drives the kernel. `papermill.execute_notebook` itself would not
do: it changes the working directory of the whole process, so two notebooks could not run side by side, and
its kernels take TCP ports that two kernels started at once can both believe to be free. Here every kernel
talks over Unix sockets in a folder of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from repsim.cli.jobs import Job
from repsim.cli.parameters import is_tagged
from repsim.support.artifacts import atomic
from repsim.support.extras import extra

with extra("notebooks", "notebooks that run headless need"):
    import nbformat
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import NotebookNode
    from papermill.translators import translate_parameters

GRACE = 3.0  # seconds that an interrupted cell has to tidy up before its kernel is killed
SOCKET_FOLDER_LIMIT = 70  # a socket's path has room for some 100 characters, file name included
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
UNTIMELY = ("execution", "papermill", "ExecuteTime")  # metadata that differs from run to run
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job: `status` is "ok", "failed" or "interrupted"; `error` says where and why."""

    job: Job
    status: str
    seconds: float = 0.0
    output: Path | None = None
    error: str = ""


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing cell id is mended in memory, not talked about
        node = nbformat.reads(json.dumps(job.notebook.content), as_version=4)
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
