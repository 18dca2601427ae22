"""Procedural data sets: images drawn from a seed, with nothing to download."""

from repsim.data.synthetic.oracles import read_outline, read_texture
from repsim.data.synthetic.outlines import SHAPE_CLASSES, shapes
from repsim.data.synthetic.textures import TWO_FEATURES, Informative, compose, two_features

__all__ = [
    "SHAPE_CLASSES",
    "TWO_FEATURES",
    "Informative",
    "compose",
    "read_outline",
    "read_texture",
    "shapes",
    "two_features",
]
