"""The mechanism of all stored things: find, obtain, add, list, pack.

An artifact is a record, `<name>.json`, and files of tensors beside it, `<name>….safetensors`, below a folder
of its kind. The record is written last, so that tensors without one are made again; a kind may also be
packed, all artifacts of a group in two files. New ones go to the first of a kind's folders; the others, such
as that of the checkout, are only read.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from repsim.store.artifact import Artifact, Draft, tensor_file
from repsim.store.recipes import StoredRecipe
from repsim.store.records import damaged, read_record, write_record
from repsim.support import artifacts, messages

PACK = "committed"  # the name of a pack's files
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Store(Generic[A]):
    """All artifacts of one kind.

    Attributes
    ----------
    title
        As messages say it, in the plural: "trained models".
    folders
        Where artifacts are looked for, asked each time.
    recipe, artifact
        The classes of their recipes, and of what is found.
    required
        What a record must have to be read.
    packed
        The name under which a pack's record has the artifacts; empty: this kind has no packs.
    """

    title: str
    folders: Callable[[], list[Path]]
    recipe: type[StoredRecipe]
    artifact: type[A]
    required: tuple[str, ...]
    packed: str = ""

    def path(self, recipe: StoredRecipe, folder: Path | None = None) -> Path:
        """The path of an artifact's record in a folder, by default that in which new ones are written."""
        return (folder or self.folders()[0]) / recipe.group / f"{recipe.name}.json"

    # -- find ----------------------------------------------------------------------------------------------

    def find(self, recipe: StoredRecipe) -> A | None:
        """The artifact of a recipe, None where there is none.

        Raises
        ------
        DamagedArtifact
            Its record is not as it was written.
        """
        for folder in self.folders():
            path = self.path(recipe, folder)
            found = self.read(path) or self._in_pack(path.with_name(f"{PACK}.json.gz"), recipe.name)
            if found is not None:
                if found.recipe.name != recipe.name:
                    raise damaged(found.path, "its recipe is another's", found.path)
                return found
        return None

    def read(self, path: Path) -> A | None:
        """The artifact of a record, wherever that is; None where there is none."""
        record = read_record(path)
        return None if record is None else self._restored(path, record)

    def _restored(self, path: Path, record: dict, prefix: str = "") -> A:
        if absent := [key for key in self.required if key not in record]:
            raise damaged(path, f"no record of {self.title}: no {', '.join(absent)}", path)
        try:
            record = self.artifact.upgraded(record)
            return self.artifact(self.recipe.restored(record), path, record, prefix)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(path, f"no record of {self.title}: {error}", path) from error

    def _in_pack(self, pack: Path, name: str) -> A | None:
        record = self._pack(pack).get(name)
        return None if record is None else self._restored(pack, record, f"{name}.")

    def _pack(self, pack: Path) -> dict[str, dict]:
        """The records of a pack by their names, none where there is no pack."""
        if not self.packed or not pack.exists():
            return {}
        return _read_pack(pack, self.packed, pack.stat().st_mtime_ns)

    # -- make ----------------------------------------------------------------------------------------------

    def obtain(
        self,
        recipe: StoredRecipe,
        make: Callable[[Draft], Mapping[str, object]],
        *,
        again: bool = False,
        accept: Callable[[A], bool] = lambda found: True,
    ) -> A:
        """The artifact of a recipe: found, or else made. Several processes that ask for one make it once.

        Parameters
        ----------
        make
            Writes the tensors into a `Draft`, and returns the record, to which the recipe is added.
        again
            Make it though it is stored, from the beginning.
        accept
            Whether one that is stored will do.
        """

        def look() -> A | None:
            found = None if again else self.find(recipe)
            return found if found is not None and accept(found) else None

        if (found := look()) is not None:
            return found
        draft = Draft(self.path(recipe))
        with artifacts.locked(draft.path):
            if (found := look()) is not None:  # another process has made it meanwhile
                return found
            if again:
                draft.forget_parts()
            write_record(draft.path, {**recipe.recorded(), **make(draft)})
            draft.forget_parts()
            return self.read(draft.path)

    def add(self, recipe: StoredRecipe, grow: Callable[[A | None], Mapping[str, object] | None]) -> A | None:
        """Change the record of an artifact, as it is now, while no other process does.

        One that was found elsewhere becomes one of the user's own.

        Parameters
        ----------
        grow
            Gives the new record of what is stored, None where nothing is to be changed.
        """
        draft = Draft(self.path(recipe))
        with artifacts.locked(draft.path):
            found = self.find(recipe)
            record = grow(found)
            if record is None:
                return found
            if found is not None and found.path != draft.path and "checksum" in found.record:
                record = {**record, "checksum": draft.write(found.tensors())}
            write_record(draft.path, {**recipe.recorded(), **record})
            return self.read(draft.path)

    # -- list and pack -------------------------------------------------------------------------------------

    def paths(self) -> dict[str, Path]:
        """The records of all artifacts by their names, the user's own before the others'."""
        return {
            path.stem: path for folder in reversed(self.folders()) for path in sorted(folder.glob("*/*.json"))
        }

    def listed(self, group: str) -> list[A]:
        """All artifacts of a group, such as a data set by its slug, packed ones too: as `find` finds them.

        Those that were made when their recipe meant something else are at another address, and left out.
        """
        found: dict[str, A | None] = {}
        for folder in reversed(self.folders()):
            pack = folder / group / f"{PACK}.json.gz"
            found |= {name: self._in_pack(pack, name) for name in self._pack(pack)}
            found |= {path.stem: self.read(path) for path in sorted((folder / group).glob("*.json"))}
        return [each for name, each in found.items() if each is not None and each.recipe.name == name]

    def groups(self) -> list[str]:
        """The groups of which something is stored."""
        packs = [path for folder in self.folders() for path in folder.glob(f"*/{PACK}.json.gz")]
        return sorted({path.parent.name for path in (*self.paths().values(), *packs)})

    def pack(self, group: str) -> Path:
        """Put all artifacts of a group into two files, and nowhere else; returns that of their records.

        Raises
        ------
        ValueError
            Nothing is stored of such a group.
        """
        groups = self.groups()
        if group not in groups or not self.listed(group):
            raise ValueError(messages.unknown(f"data set with {self.title}", group, groups))
        folder = self.folders()[0] / group
        path = folder / f"{PACK}.json.gz"
        with artifacts.locked(path):
            packed = sorted(self.listed(group), key=lambda each: each.recipe.name)
            records = {each.recipe.name: dict(each.record) for each in packed}
            for record in records.values():
                del record["checksum"]  # of which a pack has one for all
            tensors = {f"{a.recipe.name}.{name}": t for a in packed for name, t in a.tensors().items()}
            # both are written before either is renamed
            with artifacts.atomic(path) as temporary, artifacts.atomic(tensor_file(path)) as file:
                checksum = artifacts.write_tensors(file, dict(sorted(tensors.items())))
                content = {"checksum": checksum, self.packed: records}
                text = json.dumps(content, sort_keys=True, allow_nan=False)
                temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
            for each in packed:
                if each.path.parent == folder and not each.prefix:
                    self._remove_packed(each)
        return path

    def _remove_packed(self, packed: A) -> None:
        """Remove an artifact that is in a pack now, unless another process has changed it since."""
        with artifacts.locked(packed.path):
            found = self.read(packed.path)
            if found is None or found.record != packed.record:
                return
            packed.path.unlink()
            packed.file.unlink()


@functools.lru_cache(maxsize=8)
def _read_pack(path: Path, packed: str, changed: int) -> dict[str, dict]:
    """The records of a pack; `changed` is when the file was, so that a new one is read again."""
    content = read_record(path)
    if not isinstance(content.get(packed), dict) or "checksum" not in content:
        raise damaged(path, f"no pack of {packed}", path)
    return {name: {**record, "checksum": content["checksum"]} for name, record in content[packed].items()}
