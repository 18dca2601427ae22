"""Images that a network cannot tell from others: made, kept, and what they tell of the network."""

from repsim.inversion.inverting import Inversion, Reader, invert
from repsim.inversion.options import InversionOptions
from repsim.inversion.pairs import Pairs
from repsim.inversion.published import read_inverted, read_sets
from repsim.inversion.recipe import InversionRecipe
from repsim.inversion.store import InvertedSet, find_inverted, obtain_inverted

__all__ = [
    "Inversion",
    "InversionOptions",
    "InversionRecipe",
    "InvertedSet",
    "Pairs",
    "Reader",
    "find_inverted",
    "invert",
    "obtain_inverted",
    "read_inverted",
    "read_sets",
]
