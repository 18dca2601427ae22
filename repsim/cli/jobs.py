"""Jobs: notebooks to run, their values, and where their executed copies go; nothing runs here."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from repsim.cli.parameters import Notebook, RequestError
from repsim.support import messages, paths

NO_DATASET = "any"  # the folder below figures/ of notebooks that have no `dataset` parameter


def select(names: Iterable[str]) -> list[Path]:
    """Find notebooks by path, file name, stem or number; all of `notebooks/` when no name is given.

    Raises
    ------
    RequestError
        A name fits no notebook, or there is none at all.
    """
    found = sorted(paths.notebooks().glob("*.ipynb"))
    selected: list[Path] = []
    for name in names:
        matches = [path for path in found if name in (path.name, path.stem, path.stem.split("_")[0])]
        if name.endswith(".ipynb") and Path(name).is_file():
            matches = [Path(name).resolve()]
        if not matches:
            raise RequestError(messages.unknown("notebook", name, [path.stem for path in found]))
        selected += matches
    if not selected and not found:
        raise RequestError(f"there is no notebook in {paths.notebooks()}")
    return list(dict.fromkeys(selected)) or found


@dataclass(frozen=True)
class Job:
    """A notebook, the values it is given, and where its executed copy goes."""

    notebook: Notebook
    values: dict[str, object]
    output: Path
    refresh: bool = False  # store the outputs in the notebook itself; `output` is for a failed run only
    html: bool = False  # write a page beside the executed copy, to be read without Jupyter

    @property
    def name(self) -> str:
        """The notebook's file name without its suffix."""
        return self.notebook.path.stem

    def declares(self, kinds: Collection[str]) -> bool:
        """Whether one of the notebook's parameters is of some types of `repsim.cli.kinds`, by their names."""
        parameters = self.notebook.parameters.values()
        return any(kind.name in kinds for each in parameters for kind in each.kinds)


def plan(
    notebooks: list[Notebook],
    given: Mapping[str, object],
    out: Path | None = None,
    *,
    refresh: bool = False,
    html: bool = False,
) -> list[Job]:
    """Give each notebook the parameters it declares; it goes to `out` or `figures/<dataset>/notebooks/`.

    Raises
    ------
    RequestError
        No notebook declares a given parameter, a value is not of its type, two executed notebooks would
        have one name, or one would replace a notebook that is to run; or nothing can be written where
        results go.
    """
    known = list(dict.fromkeys(name for notebook in notebooks for name in notebook.parameters))
    for name in given:
        if not known:
            stems = ", ".join(notebook.path.stem for notebook in notebooks)
            raise RequestError(f"no cell tagged 'parameters' in {stems} declares any: {name!r} cannot be set")
        if name not in known:
            raise RequestError(messages.unknown("parameter", name, known))
    sources = {notebook.path.resolve() for notebook in notebooks}
    jobs: dict[Path, Job] = {}
    for notebook in notebooks:
        path, values = notebook.path, notebook.values(given)
        dataset = (notebook.defaults | values).get("dataset")
        slug = NO_DATASET if dataset is None else paths.dataset_slug(str(dataset))
        output = (out.resolve() if out else paths.figures(slug) / "notebooks") / path.name
        if output.resolve() in sources:
            raise RequestError(
                f"the executed copy would replace {output}: choose another --out, or use --refresh"
            )
        if output in jobs:
            raise RequestError(f"{jobs[output].notebook.path} and {path} would both be written to {output}")
        for folder in (output.parent, paths.figures(slug), paths.data()):
            check_writable(folder)
        jobs[output] = Job(notebook, values, output, refresh, html)
    return list(jobs.values())


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, or made.

    Raises
    ------
    RequestError
        With what is in the way.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        raise RequestError(f"nothing can be written to {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"nothing can be written to {folder}: {there} may not be changed")
