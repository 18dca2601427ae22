"""Recipes: the values that decide what an artifact is, and from which its files have their name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import get_type_hints

from repsim.support import artifacts


class StoredRecipe:
    """All that decides what an artifact is; equal recipes make equal artifacts. To be derived as a dataclass.

    A nested dataclass is a field called `options`.
    """

    dataset: str

    @property
    def version(self) -> int:
        """One more whenever equal recipes come to make something else; what was made before is left alone."""
        return 1

    @property
    def identity(self) -> dict[str, object]:
        """The plain values that are hashed. A field that is renamed is to stay here under its former name."""
        made_by = dataclasses.asdict(self)
        return made_by if self.version == 1 else {**made_by, "version": self.version}

    @property
    def address(self) -> str:
        """Equal for recipes that make equal artifacts."""
        return artifacts.address(self.identity)

    @property
    def name(self) -> str:
        """The name of the files, without their suffix."""
        return self.address

    @property
    def group(self) -> str:
        """The folder of the files below the store's own."""
        return self.dataset

    def recorded(self) -> dict[str, object]:
        """The part of a record that says which recipe it is of."""
        return {"recipe": dataclasses.asdict(self)}

    @classmethod
    def restored(cls, record: Mapping) -> StoredRecipe:
        """The recipe of a record: the inverse of `recorded`."""
        fields = dict(record["recipe"])
        if "options" in fields:
            fields["options"] = get_type_hints(cls)["options"](**fields["options"])
        return cls(**fields)
