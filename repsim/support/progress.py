"""Progress bars, where somebody is there to see them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tqdm.auto import tqdm


def progress_bar(items: Iterable | None, what: str, unit: str, wanted: bool = True, **options) -> tqdm:
    """Go through `items` behind a bar; no bar if unwanted, under CI, or where `TQDM_DISABLE` is set.

    Without items, the bar is told of each step by `update`.
    """
    unseen = any(os.environ.get(name, "") not in ("", "0") for name in ("CI", "TQDM_DISABLE"))
    return tqdm(items, desc=what, unit=unit, disable=unseen or not wanted, leave=False, **options)
