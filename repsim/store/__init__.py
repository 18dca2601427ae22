"""The one store: a recipe → an artifact that is found, made once, listed and packed; see `Store`."""

from repsim.store.artifact import Artifact, Draft
from repsim.store.recipes import StoredRecipe
from repsim.store.store import Store
from repsim.store.unfinished import (
    read_unfinished,
    read_unfinished_tensors,
    write_unfinished,
    write_unfinished_tensors,
)

__all__ = [
    "Artifact",
    "Draft",
    "Store",
    "StoredRecipe",
    "read_unfinished",
    "read_unfinished_tensors",
    "write_unfinished",
    "write_unfinished_tensors",
]
