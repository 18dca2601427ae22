"""A real browser, Debian's Chromium, and servers that it opens; skipped where there is none."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from playwright import sync_api

from repsim.cli.parameters import is_tagged

sync_api.expect.set_options(timeout=90_000)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOW = "apt-get install chromium"
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "07_explorer.ipynb"
PATIENCE = 90.0  # seconds, for a server or a kernel on a busy machine
QUICK = {"images": 32, "layers": ["blocks"], "attack_steps": 3, "others": []}


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason=f"there is no Chromium here: {HOW}"))


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": ["--no-sandbox"]}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args):
    return {**browser_context_args, "viewport": {"width": 1280, "height": 800}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the notebook as it is committed, but for parameters that make it quick."""
    found = tmp_path_factory.mktemp("served")
    node = nbformat.read(NOTEBOOK, as_version=4)
    place = next(i for i, cell in enumerate(node.cells) if is_tagged(cell, "parameters"))
    changes = "\n".join(f"{name} = {value!r}" for name, value in QUICK.items())
    node.cells.insert(place + 1, nbformat.v4.new_code_cell(changes))
    nbformat.write(node, found / "explorer.ipynb")
    return found


@contextlib.contextmanager
def server(command, folder):
    """The address of a server of ours while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.format(port=port) for word in command]
    environment = {**os.environ, "REPSIM_HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=folder, env=environment, stdout=output, stderr=output
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, process, log)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # kernels notice by themselves that their server has gone
                process.kill()
                process.wait()


def wait_for(address, process, log):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(f"{address}/nothing", timeout=5)
            except urllib.error.HTTPError:
                return
        time.sleep(0.2)
    raise AssertionError(f"no answer from {address}: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def lab(folder):
    """The address of a JupyterLab."""
    words = "jupyterlab --no-browser --allow-root --ServerApp.token= --ServerApp.password= --port={port}"
    with server([*words.split(), "--LabApp.news_url=None"], folder) as address:
        yield address


@pytest.fixture(scope="module")
def web(folder):
    """The address of the web page."""
    with server(["voila", "explorer.ipynb", "--no-browser", "--port={port}"], folder) as address:
        yield address


@pytest.fixture(scope="module")
def visit(browser, browser_context_args):
    """Open an address as a new visitor."""
    contexts = []

    def open_page(address):
        contexts.append(browser.new_context(**browser_context_args))
        contexts[-1].set_default_timeout(1000 * PATIENCE)
        page = contexts[-1].new_page()
        page.goto(address, wait_until="domcontentloaded")
        return page

    yield open_page
    for context in contexts:
        context.close()
