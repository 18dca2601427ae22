"""Angles and chords, exact where they are small, and never undefined."""

import math

import pytest
import torch

from repsim.measures.angles import angle, chord


def vectors(theta):
    """Two unit vectors at an angle, their cosine, and how their difference is had."""
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.tensor([math.cos(theta), math.sin(theta)], dtype=torch.float64)
    return a @ b, lambda: torch.tensor([2 * math.sin(theta / 2) ** 2, -math.sin(theta)], dtype=torch.float64)


EDGE = math.acos(1 - torch.finfo(torch.float64).eps ** (1 / 3))
ANGLES = [0.0, 1e-150, 1e-15, 1e-9, 1e-4, EDGE * 0.999, EDGE * 1.001, 0.1, 1.0, math.pi / 2, 2.0, 3.0]


@pytest.mark.parametrize("theta", ANGLES)
def test_angle_is_exact(theta):
    assert float(angle(*vectors(theta))) == pytest.approx(theta, rel=1e-10, abs=0)


@pytest.mark.parametrize("theta", ANGLES)
def test_chord_is_exact(theta):
    assert float(chord(*vectors(theta))) == pytest.approx(2 * math.sin(theta / 2), rel=1e-10, abs=0)


def test_an_arccos_would_not_be():
    cosine, _ = vectors(1e-9)
    assert float(torch.arccos(cosine)) == 0


@pytest.mark.parametrize("excess", [1e-16, 1e-12, 1e-8])
def test_a_cosine_that_rounding_took_too_far_is_no_nan(excess):
    opposite = torch.tensor(-1 - excess, dtype=torch.float64)
    unused = pytest.fail
    assert float(chord(opposite, lambda: unused("not near"))) == 2
    assert float(angle(opposite, lambda: unused("not near"))) == pytest.approx(math.pi)
    same = torch.tensor(1 + excess, dtype=torch.float64)
    assert float(angle(same, lambda: torch.zeros(3, dtype=torch.float64))) == 0
