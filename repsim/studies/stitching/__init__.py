"""What one network can do with another's representation: stitching ([B] Balogh & Jelasity, 2023).

`stitch` splices two networks; `make_transform` makes the map in between; `fit_stitch` finds it. Stored
networks are stitched by `obtain_stitch`, many at once by what `repsim.studies.stitching.experiments` has.
"""

from repsim.studies.stitching.activation_cache import Budget
from repsim.studies.stitching.evaluation import Evaluation
from repsim.studies.stitching.fitting import fit_stitch
from repsim.studies.stitching.layouts import Layout
from repsim.studies.stitching.moments import Moments
from repsim.studies.stitching.network import StitchedNetwork, make_transform, stitch
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
    "fit_stitch",
    "make_transform",
    "obtain_stitch",
    "stitch",
]
