# The names of `repsim`, for editors and type checkers, and for `__init__.py`, which loads them when asked.
from .activations import capture, layers
from .attacks import attack
from .data import load_data
from .measures import compare
from .studies.cka_maps import layer_cka
from .studies.inversion import invert
from .studies.stitching import stitch
from .training import load_model

__version__: str

__all__ = [
    "attack",
    "capture",
    "compare",
    "invert",
    "layer_cka",
    "layers",
    "load_data",
    "load_model",
    "stitch",
]
