"""Lengths in pixel units: ε from what a person writes, and as a person writes it."""

from __future__ import annotations

from fractions import Fraction


def parse_epsilon(value: str | float, name: str = "epsilon") -> float:
    """ε, or another length in pixel units of images in [0, 1], from a number or text such as `8/255`.

    Raises
    ------
    ValueError
        It is neither, or negative.
    """
    try:
        epsilon = float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{name} must be a number or a fraction such as '8/255', not {value!r}.") from error
    if not 0 <= epsilon < float("inf"):
        raise ValueError(f"{name} must be a finite number ≥ 0 in pixel units, not {value!r}.")
    return epsilon


def epsilon_text(epsilon: float) -> str:
    """ε as a person writes it: `0.1`, or `8/255` where a decimal would be long."""
    decimal, levels = f"{epsilon:g}", epsilon * 255
    is_levels = len(decimal) > 5 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if is_levels else decimal
