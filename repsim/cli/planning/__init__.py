"""The dry run `repsim run --plan`: what notebooks would compute, before anything starts.

A plan asks the study that a notebook imports what it needs, with the values of the notebook's parameters, and
looks for it in the store. It starts nothing and writes nothing.
"""

from repsim.cli.planning.plans import Plan, Work, make_plan, show

__all__ = ["Plan", "Work", "make_plan", "show"]
