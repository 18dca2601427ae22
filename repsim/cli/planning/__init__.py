"""The dry run `repsim run --plan`: what notebooks would compute, before anything starts.

A plan goes by the names of a notebook's parameters, and looks for what they ask for where the notebook would:
networks, inverted images and stitches by their recipes. It starts nothing and writes nothing.
"""

from repsim.cli.planning.plans import Plan, make_plan, show
from repsim.cli.planning.work import Work

__all__ = ["Plan", "Work", "make_plan", "show"]
