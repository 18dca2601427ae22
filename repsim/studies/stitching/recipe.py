"""Recipes of stitches: of which networks, between which layers, found on which images, and how."""

from __future__ import annotations

from dataclasses import dataclass

from repsim.data import Dataset
from repsim.store import StoredRecipe
from repsim.studies.stitching.options import StitchOptions
from repsim.training.model_store import TrainedModel

VERSION = 2  # of task losses; 1 was before `l1`, `temperature`, `thirds` and batches meant what they do now


@dataclass(frozen=True)
class StitchRecipe(StoredRecipe):
    """All that decides what a stitch is; equal recipes make equal stitches.

    Attributes
    ----------
    dataset, fingerprint
        On whose training images the transform is found.
    front, end
        Names of the donors in the store; `front_weights` and `end_weights` begin their checksums.
    layer_front, layer_end
        Whose value is taken, and whose is replaced.
    cross_task
        Allow donors with different numbers of classes.
    options
        How the transform is found.
    """

    dataset: str
    fingerprint: str
    front: str
    front_weights: str
    end: str
    end_weights: str
    layer_front: str
    layer_end: str
    cross_task: bool
    options: StitchOptions

    @classmethod
    def of(
        cls,
        front: TrainedModel,
        end: TrainedModel,
        layer_front: str,
        layer_end: str,
        dataset: Dataset,
        options: StitchOptions | None = None,
        *,
        cross_task: bool = False,
    ) -> StitchRecipe:
        """A recipe for stored donors and a loaded data set."""
        return cls(
            dataset=dataset.slug,
            fingerprint=dataset.fingerprint,
            front=front.name,
            front_weights=front.weights,
            end=end.name,
            end_weights=end.weights,
            layer_front=layer_front,
            layer_end=layer_end,
            cross_task=cross_task,
            options=options or StitchOptions(),
        )

    @property
    def version(self) -> int:
        return 1 if self.options.is_direct else VERSION  # a direct match is what it always was

    @property
    def identity(self) -> dict[str, object]:
        """The plain values that are hashed; before there was a precision, it was float32."""
        made_by = super().identity
        if self.options.precision == "float32":
            del made_by["options"]["precision"]
        return made_by

    @property
    def title(self) -> str:
        return f"{self.front}/{self.layer_front} → {self.end}/{self.layer_end}"
