"""What every test runs under: annotations are checked, nothing is downloaded or written into the checkout.

Of tests marked `matrix` only the first case, or those that the marker names, belong to the quick set.
"""

import os
import re
import socket
from collections import Counter
from pathlib import Path

import jaxtyping
from jaxtyping import install_import_hook

# Annotations are checked unless REPSIM_ANNOTATIONS says off, as it does in `make test`: that halves its time.
# Of the measures only what others call is checked: inside their loops a check takes longer than the work.
FACES = ("comparing", "intervals", "measure", "pairing", "permutation_tests", "predictions", "registry")
PACKAGE = Path(__file__).parents[1] / "repsim"
CHECKED = [f"repsim.{room.name}" for room in PACKAGE.iterdir() if room.is_dir() and room.name != "measures"]
if os.environ.get("REPSIM_ANNOTATIONS") != "off":
    # Before anything imports repsim. A whole number is as good as a float, as it is to every type checker.
    install_import_hook(
        [*CHECKED, *(f"repsim.measures.{name}" for name in FACES)],
        "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
    )

import hypothesis  # noqa: E402
import matplotlib  # noqa: E402
import pytest  # noqa: E402

matplotlib.use("Agg")
hypothesis.settings.register_profile("repsim", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repsim")

LOCAL = ("localhost", "127.0.0.1", "::1", "", None)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(items):
    """Mark the cases of a matrix that are not in the quick set as slow."""
    count = Counter()
    for item in items:
        marker = item.get_closest_marker("matrix")
        if marker is None or not hasattr(item, "callspec"):
            continue
        count[item.parent.nodeid, item.originalname] += 1
        words = "|".join(map(re.escape, marker.args))
        is_first = count[item.parent.nodeid, item.originalname] == 1
        if not (re.search(rf"(^|-)({words})($|-)", item.callspec.id) if words else is_first):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _no_download():
    """Refuse every look-up of a host but this one."""
    look_up = socket.getaddrinfo

    def refuse(host, *arguments, **options):
        if host not in LOCAL:
            raise AssertionError(f"a test tried to reach {host}")
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(autouse=True)
def _temporary_home(tmp_path, monkeypatch):
    """Whatever a test writes goes to its own folder; the zoos of the checkout are found all the same."""
    monkeypatch.setenv("REPSIM_HOME", str(tmp_path))
    monkeypatch.delenv("REPSIM_DATA", raising=False)
    monkeypatch.delenv("REPSIM_FIGURES", raising=False)


@pytest.fixture(scope="session")
def tiny_data():
    """Digits, few of them: 200 to train on, 60 to test."""
    from repsim.data import load_data

    return load_data("digits", train_size=200, test_size=60)


@pytest.fixture
def unchecked():
    """Annotations are not checked, as outside tests: a wrong argument reaches our own message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
