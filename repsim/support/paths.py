"""Places of data and figures: below the repository root or `REPSIM_HOME`, never the working directory."""

from __future__ import annotations

import os
import re
from pathlib import Path


def home() -> Path:
    """The folder that holds `data/`, `figures/` and `notebooks/`.

    `REPSIM_HOME` when it is set, else the root of the checkout that this package was imported from.

    Raises
    ------
    RuntimeError
        The package was installed outside a checkout and `REPSIM_HOME` is not set.
    """
    if chosen := os.environ.get("REPSIM_HOME"):
        return Path(chosen).expanduser().resolve()
    root = Path(__file__).resolve().parents[2]
    if not (root / "notebooks").is_dir():
        raise RuntimeError(
            f"{root} is no repsim checkout (it has no notebooks/ folder): set the environment variable "
            "REPSIM_HOME to the folder that should hold data/ and figures/."
        )
    return root


def data() -> Path:
    """The folder of caches, downloads and trained models."""
    return home() / "data"


def figures(dataset: str) -> Path:
    """The folder of the pictures and tables of one data set."""
    return home() / "figures" / dataset


def notebooks() -> Path:
    """The folder of the numbered notebooks."""
    return home() / "notebooks"


def models() -> list[Path]:
    """Folders in which trained models are looked for; new ones are written to the first.

    The second is the committed zoo of the checkout, so that it is found from any `REPSIM_HOME`.
    """
    committed = Path(__file__).resolve().parents[2] / "data" / "models"
    chosen = data() / "models"
    return [chosen] if chosen == committed else [chosen, committed]


def stitches() -> list[Path]:
    """Folders in which stitches are looked for, as `models` has them for models."""
    return [folder.with_name("stitches") for folder in models()]


def inverted() -> list[Path]:
    """Folders in which inverted images are looked for, as `models` has them for models."""
    return [folder.with_name("inverted") for folder in models()]


def comparisons() -> Path:
    """The folder in which values of measures are kept, so that they are computed once."""
    return data() / "comparisons"


def probes() -> Path:
    """The folder of linear probes."""
    return data() / "probes"


def dataset_slug(dataset: str) -> str:
    """A data set's name as a folder name: `folder:/photos/cats/` and `packed:cats.lmdb` become `cats`."""
    name = dataset
    if dataset.startswith("folder:"):
        # made absolute, so that `folder:.` and `folder:../cats` have a name too
        name = os.path.abspath(os.path.expanduser(dataset.removeprefix("folder:")))
    elif dataset.startswith("packed:"):
        name = Path(dataset.removeprefix("packed:")).stem
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(name).name)
    return slug.lstrip(".") or "unnamed"
