"""Stitching: one network goes on with another's representation ([B] Balogh & Jelasity, 2023).

`stitch` finds the map between two layers, and gives the stitched network; `splice` puts in a map that is
there, such as `make_transform` makes. Stored networks are stitched by `obtain_stitch`, many at once by what
`repsim.studies.stitching.experiments` has.
"""

from repsim.studies.stitching.activation_cache import Budget
from repsim.studies.stitching.evaluation import Evaluation
from repsim.studies.stitching.fitting import stitch
from repsim.studies.stitching.layouts import Layout
from repsim.studies.stitching.moments import Moments
from repsim.studies.stitching.network import StitchedNetwork, make_transform, splice
from repsim.studies.stitching.options import StitchOptions
from repsim.studies.stitching.recipe import StitchRecipe
from repsim.studies.stitching.store import Stitch, find_stitch, obtain_stitch
from repsim.studies.stitching.transforms import Transform

__all__ = [
    "Budget",
    "Evaluation",
    "Layout",
    "Moments",
    "Stitch",
    "StitchOptions",
    "StitchRecipe",
    "StitchedNetwork",
    "Transform",
    "find_stitch",
    "make_transform",
    "obtain_stitch",
    "splice",
    "stitch",
]
