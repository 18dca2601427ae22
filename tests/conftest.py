"""What every test runs under: annotations are checked, nothing is downloaded or written into the checkout."""

import socket

import jaxtyping
from jaxtyping import install_import_hook

# Before anything imports repsim. A whole number is as good as a float here, as it is to every type checker.
install_import_hook("repsim", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import hypothesis  # noqa: E402
import matplotlib  # noqa: E402
import pytest  # noqa: E402

matplotlib.use("Agg")
hypothesis.settings.register_profile("repsim", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repsim")

LOCAL = ("localhost", "127.0.0.1", "::1", "", None)


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
