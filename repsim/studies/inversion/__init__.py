"""Images that a network cannot tell from others: made, kept, and what they tell of the network."""

from repsim.studies.inversion.experiments import SetBatch
from repsim.studies.inversion.inverting import FeatureExtractor, Inversion, invert
from repsim.studies.inversion.options import InversionOptions
from repsim.studies.inversion.pairs import Pairs
from repsim.studies.inversion.published import read_inverted, read_sets
from repsim.studies.inversion.recipe import InversionRecipe, Start
from repsim.studies.inversion.store import InvertedSet, find_inverted, obtain_inverted
from repsim.studies.inversion.study import InversionStudy, InvertingStudy

__all__ = [
    "FeatureExtractor",
    "Inversion",
    "InversionOptions",
    "InversionRecipe",
    "InversionStudy",
    "InvertedSet",
    "InvertingStudy",
    "Pairs",
    "SetBatch",
    "Start",
    "find_inverted",
    "invert",
    "obtain_inverted",
    "read_inverted",
    "read_sets",
]
