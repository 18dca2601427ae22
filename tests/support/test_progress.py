"""A bar where somebody sees it, and the same items with or without one."""

import pytest

from repsim.support.progress import progress_bar


@pytest.fixture(autouse=True)
def _seen(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def test_every_item_comes_through(capsys):
    assert list(progress_bar(iter("abc"), "letters", "letter", total=3)) == ["a", "b", "c"]
    err = capsys.readouterr().err
    assert "letters:" in err
    assert "/3 [" in err
    assert "letter/s" in err


@pytest.mark.parametrize("variable", ["CI", "TQDM_DISABLE"])
@pytest.mark.parametrize(("value", "seen"), [("1", False), ("true", False), ("0", True), ("", True)])
def test_the_environment_may_want_none(monkeypatch, capsys, variable, value, seen):
    monkeypatch.setenv(variable, value)
    assert list(progress_bar([1, 2], "numbers", "number")) == [1, 2]
    assert bool(capsys.readouterr().err) is seen


def test_the_caller_may_want_none(capsys):
    bar = progress_bar([1, 2], "numbers", "number", False)
    assert list(bar) == [1, 2]
    bar.set_postfix(loss=1)  # does nothing, and may be called all the same
    assert capsys.readouterr().err == ""
