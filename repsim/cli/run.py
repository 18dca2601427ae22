"""The command `repsim run`: choose notebooks, check all that they are given, then run them or plan.

What runs a notebook, and what needs torch, takes seconds to import, and is imported when it is needed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from repsim.cli.jobs import plan, select
from repsim.cli.kinds import TAKE_TORCH
from repsim.cli.parameters import Notebook, RequestError, read_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `repsim run`."""
    add = parser.add_argument
    chosen = "a path, a name or a number such as 01; all of notebooks/ by default"
    add("notebooks", nargs="*", metavar="NOTEBOOK", help=chosen)
    setting = "set a parameter in every notebook that declares it; in YAML: '[a, b]', '{epochs: 40}'"
    add("-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=setting)
    add("-f", dest="file", type=Path, metavar="FILE", help="a YAML file of parameters; -p wins over it")
    add("--jobs", type=_at_least_one, default=1, metavar="N", help="how many notebooks run at once (1)")
    add("--out", type=Path, metavar="DIR", help="where executed notebooks go (figures/<dataset>/notebooks/)")
    add("--list", action="store_true", help="show the notebooks and their parameters; run nothing")
    add("--html", action="store_true", help="write each executed notebook as a web page, too")
    add("--plan", action="store_true", help="say what would be computed, how long and how large; run nothing")
    storing = "store the outputs in the notebooks themselves; takes no -p, -f, --out"
    add("--refresh", action="store_true", help=storing)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def main(arguments: argparse.Namespace) -> int:
    """Do what the arguments of `repsim run` ask.

    Returns 0 when every notebook ran (or could, by its plan), 1 when one failed (or lacks something), 2 when
    the request cannot be run as it stands, 130 after an interrupt.
    """
    try:
        notebooks = [Notebook.read(path) for path in select(arguments.notebooks)]
        if arguments.list:
            print("\n\n".join(notebook.listing() for notebook in notebooks))
            return 0
        if arguments.refresh and (arguments.given or arguments.file or arguments.out):
            raise RequestError("--refresh stores what a notebook's own parameters give: no -p, -f or --out")
        if arguments.plan and arguments.file and not arguments.file.is_file():
            print(f"missing: the parameter file {arguments.file}")
            return 1
        filed = read_file(arguments.file) if arguments.file else {}
        jobs = plan(
            notebooks,
            filed | dict(arguments.given),
            arguments.out,
            refresh=arguments.refresh,
            html=arguments.html,
        )
        if any(job.values and job.declares(TAKE_TORCH) for job in jobs):
            from repsim.cli import checking

            checking.check(jobs)
    except RequestError as error:
        print(f"repsim run: {error}", file=sys.stderr)
        return 2
    if arguments.plan:
        from repsim.cli import planning

        return planning.show((job.name, job.notebook.defaults | job.values) for job in jobs)
    from repsim.cli import scheduling

    outcomes = scheduling.run(jobs, arguments.jobs)
    print(f"\n{scheduling.summary(outcomes)}")
    statuses = {outcome.status for outcome in outcomes}
    return 130 if "interrupted" in statuses else int("failed" in statuses)
