import pytest

from repsim.studies.comparison import values


@pytest.fixture(autouse=True)
def _nothing_seen_yet(monkeypatch):
    """What one test has made of images is not known to the next."""
    monkeypatch.setattr(values, "ACTIVATION_CACHE", values.Memory(limit=2**30))
