"""What one network can do with another's representation: stitching ([B] Balogh & Jelasity, 2023).

`stitch` splices two networks; `make_transform` makes the map in between; `fit_stitch` finds it. Stored
networks are stitched by `obtain_stitch`, many at once by what `repsim.stitching.experiments` has.
"""

from repsim.stitching.evaluation import Evaluation
from repsim.stitching.fitting import fit_stitch
from repsim.stitching.kept import Budget
from repsim.stitching.layouts import Layout
from repsim.stitching.moments import Moments
from repsim.stitching.network import StitchedNetwork, make_transform, stitch
from repsim.stitching.options import StitchOptions
from repsim.stitching.recipe import StitchRecipe
from repsim.stitching.store import Stitch, find_stitch, obtain_stitch
from repsim.stitching.transforms import Transform

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
    "fit_stitch",
    "make_transform",
    "obtain_stitch",
    "stitch",
]
