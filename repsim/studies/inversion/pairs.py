"""Pairs of a seed and a target: drawn once, kept, and shared by all models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repsim.data import Dataset, Split, to_bytes
from repsim.store.records import check_beside, write_beside
from repsim.support import artifacts, paths
from repsim.support.labels import check_one_class

COLUMNS = ("seed_index", "target_index")
PUBLISHED = "0"  # the column of Klabunde et al.'s lists, beside the number of the row


@dataclass(frozen=True, eq=False)
class Pairs:
    """Seed and target images of different classes, by their indices in a data set's test images.

    Attributes
    ----------
    seed_index, target_index
        One entry per pair.
    content
        A hash of the images themselves: a data set's fingerprint is that of its training images.
    """

    dataset: str
    fingerprint: str
    content: str
    seed_index: Int[Tensor, " n"]
    target_index: Int[Tensor, " n"]

    @classmethod
    def of(cls, dataset: Dataset, seed_index: Int[Tensor, " n"], target_index: Int[Tensor, " n"]) -> Pairs:
        """Pairs of your own choice.

        Raises
        ------
        ValueError
            A pair is of one class; an index is out of range or no whole number; or there are no pairs, or not
            as many seeds as targets.
        """
        split = dataset.test
        check_one_class(split.labels, "seeds and targets of different classes need")
        if seed_index.dtype != torch.int64 or target_index.dtype != torch.int64 or not len(target_index):
            raise ValueError("pairs are indices of test images: whole numbers, and one pair at least.")
        if seed_index.shape != target_index.shape:
            raise ValueError(
                f"each seed needs one target, got {len(seed_index)} seeds and {len(target_index)} targets."
            )
        for name, index in (("seed_index", seed_index), ("target_index", target_index)):
            outside = (index < 0) | (index >= len(split))
            if outside.any():
                raise ValueError(
                    f"{name} has {int(index[outside][0])}, but {dataset.title} has {len(split)} test images."
                )
        equal = split.labels[seed_index] == split.labels[target_index]
        if equal.any():
            first = int(equal.nonzero()[0])
            raise ValueError(
                "seed and target must be of different classes, or the seed may hold already what the target "
                f"is known by: pair {first} (of {int(equal.sum())} such) is {int(seed_index[first])} and "
                f"{int(target_index[first])}, both {dataset.classes[split.labels[seed_index[first]]]!r}."
            )
        content = _digest(split.images[seed_index], split.images[target_index])
        return cls(dataset.slug, dataset.fingerprint, content, seed_index, target_index)

    @classmethod
    def draw(cls, dataset: Dataset, count: int, seed: int = 0, *, keep: bool = True) -> Pairs:
        """`count` pairs in which no image is a target twice, each target with a random seed of another class.

        They are kept as a table under `data/inverted/` (unless `keep=False`), and read from there the next
        time.

        Raises
        ------
        ValueError
            There are fewer test images than pairs, or they are all of one class.
        DamagedArtifact
            The table that was kept is not whole.
        """
        split = dataset.test
        check_one_class(split.labels, "seeds and targets of different classes need")
        if not 1 <= count <= len(split):
            raise ValueError(
                f"{dataset.title} has {len(split)} test images, so that pairs can be 1 to {len(split)}, not "
                f"{count}."
            )
        if len(split.labels.unique()) < 2:
            raise ValueError("pairs need test images of two classes at least.")
        identity = {
            "fingerprint": dataset.fingerprint,
            "test": _digest(split.images, split.labels),
            "count": count,
            "seed": seed,
        }
        name = f"pairs-{artifacts.address(identity)}.csv"
        for folder in paths.inverted():
            path = folder / dataset.slug / name
            if path.exists():
                check_beside(path)
                pairs = cls.read(path, dataset)
                if len(pairs.target_index.unique()) != count:
                    raise artifacts.DamagedArtifact(
                        f"{path} does not hold {count} pairs of different targets: remove it to draw again."
                    )
                return pairs
        generator = torch.Generator().manual_seed(seed)
        target = torch.randperm(len(split), generator=generator)[:count]
        # Uniform over the images of other classes: draw again where the class is the same.
        start = torch.randint(len(split), (count,), generator=generator)
        while (same := split.labels[start] == split.labels[target]).any():
            start[same] = torch.randint(len(split), (int(same.sum()),), generator=generator)
        pairs = cls.of(dataset, start, target)
        if keep:
            path = paths.inverted()[0] / dataset.slug / name
            pairs.write(path, dataset)
            write_beside(path)
        return pairs

    @classmethod
    def read(cls, path: Path, dataset: Dataset) -> Pairs:
        """Pairs from a table with columns `seed_index` and `target_index`.

        Raises
        ------
        DamagedArtifact
            The file has no such columns, or they hold something other than whole numbers.
        ValueError
            As `of`.
        """
        try:
            table = pd.read_csv(path, dtype={"seed_index": "int64", "target_index": "int64"})
            columns = [torch.from_numpy(table[name].to_numpy(copy=True)) for name in COLUMNS]
        except (ValueError, KeyError) as error:
            raise artifacts.DamagedArtifact(
                f"{path} is no table of pairs (columns {' and '.join(COLUMNS)}): {error}."
            ) from error
        return cls.of(dataset, *columns)

    @classmethod
    def read_files(cls, files: Sequence[str | Path], dataset: Dataset) -> Pairs:
        """Pairs from one table of ours (see `read`), or from the lists that Klabunde et al. (2025) publish.

        Of theirs there are two files, `seed_indices….csv` and then `target_indices….csv`; or one, of seeds,
        where all test images are targets in their order, as in their CIFAR-10 sets (their code writes a list
        of targets there, and does not use it). Their ImageNet lists count files in the order of their names,
        not class by class; those of ImageNet-100 and ImageNet-50 are of training images.

        Raises
        ------
        DamagedArtifact
            A file is not such a table.
        ValueError
            There are no files, or more than two, or one is not there; or as `of`.
        """
        files = [Path(file).expanduser() for file in files]
        if len(files) not in (1, 2):
            raise ValueError(
                f"pairs are one table, or a file of seeds and a file of targets, not {len(files)} files."
            )
        for file in files:
            if not file.is_file():
                raise ValueError(f"{file} is not there.")
        with files[0].open("rb") as table:
            is_ours = COLUMNS[0].encode() in table.readline()
        if is_ours and len(files) == 1:
            return cls.read(files[0], dataset)
        seeds, *targets = (_read_list(file, len(dataset.test), dataset.title) for file in files)
        return cls.of(dataset, seeds, *(targets or [torch.arange(len(seeds))]))

    def write(self, path: Path, dataset: Dataset) -> None:
        """Write a table: `pair`, `seed_index`, `target_index`, `seed_class`, `target_class`."""
        with artifacts.atomic(path) as temporary:
            self.table(dataset).to_csv(temporary, index=False)

    def table(self, dataset: Dataset) -> pd.DataFrame:
        """One row per pair: `pair`, `seed_index`, `target_index`, `seed_class`, `target_class`."""
        labels = dataset.test.labels
        return pd.DataFrame(
            {
                "pair": range(len(self)),
                "seed_index": self.seed_index.numpy(),
                "target_index": self.target_index.numpy(),
                "seed_class": [dataset.classes[i] for i in labels[self.seed_index]],
                "target_class": [dataset.classes[i] for i in labels[self.target_index]],
            }
        )

    def __len__(self) -> int:
        return len(self.target_index)

    @property
    def address(self) -> str:
        """Equal for equal pairs of equal data."""
        return artifacts.address(
            {
                "dataset": self.dataset,
                "fingerprint": self.fingerprint,
                "content": self.content,
                "seed_index": self.seed_index.tolist(),
                "target_index": self.target_index.tolist(),
            }
        )

    def seeds(self, split: Split) -> Float[Tensor, "n c h w"]:
        """The seed of each pair; `split` is the test images that they were drawn from, and no others."""
        return self._images(split)[0]

    def targets(self, split: Split) -> Float[Tensor, "n c h w"]:
        """The target of each pair; as `seeds`."""
        return self._images(split)[1]

    def _images(self, split: Split) -> tuple[Tensor, Tensor]:
        largest = int(torch.cat([self.seed_index, self.target_index]).max())
        if largest < len(split):
            found = split.images[self.seed_index], split.images[self.target_index]
            if _digest(*found) == self.content:
                return found
        raise ValueError(
            f"these {len(split)} images are not those of {self.dataset} that the pairs were drawn from."
        )

    def noise(self, split: Split, seed: int = 0) -> Float[Tensor, "n c h w"]:
        """Seeds of uniform random pixels, one for each target, for STIR."""
        generator = torch.Generator().manual_seed(seed)
        return torch.rand((len(self), *split.images.shape[1:]), generator=generator)


def _read_list(path: Path, count: int, title: str) -> Tensor:
    """One of the published lists of indices; `count` and `title` are of the test images they are to be of."""
    try:
        column = pd.read_csv(path, index_col=0)[PUBLISHED]
        if column.dtype != "int64":
            raise ValueError("it holds something other than whole numbers")
        index = torch.from_numpy(column.to_numpy(copy=True))
    except (ValueError, KeyError) as error:
        raise artifacts.DamagedArtifact(
            f"{path} is no published list of indices (a column {PUBLISHED!r} beside the number of the row): "
            f"{error}."
        ) from error
    if not 0 <= int(index.min()) <= int(index.max()) < count:
        wrong = int(index.max()) if index.max() >= count else int(index.min())
        raise ValueError(
            f"{path} has the index {wrong}, but {title} has {count} test images. (The lists for ImageNet-100 "
            "and ImageNet-50 were drawn from training images.)"
        )
    return index


def _digest(*tensors: Tensor) -> str:
    """A hash of images, as bytes, and of labels."""
    return artifacts.digest(*(to_bytes(each) if each.is_floating_point() else each for each in tensors))
