"""A name → a `Dataset`: training and test images in [0, 1], their labels, classes and normalisation.

Adding a data set is one function that returns its two splits, under `@register("name")`.
"""

from repsim.data import downloads, embedded  # noqa: F401 (loaders become known in the order in which errors list them)
from repsim.data.dataset import LOADERS, Augmentation, Dataset, Request, Source, register
from repsim.data.folders import IMAGE_SUFFIXES
from repsim.data.images import (
    ImageSource,
    as_images,
    as_images_in_order,
    as_split,
    batches_of_images,
    images_and_labels,
    is_one_shot,
    labelled_images,
    shuffles,
)
from repsim.data.loading import data_root, load_data
from repsim.data.packing import pack_images
from repsim.data.splits import Split, from_bytes, stratified, to_bytes
from repsim.data.streaming import StreamedSplit, UnreadableImage

__all__ = [
    "IMAGE_SUFFIXES",
    "LOADERS",
    "Augmentation",
    "Dataset",
    "ImageSource",
    "Request",
    "Source",
    "Split",
    "StreamedSplit",
    "UnreadableImage",
    "as_images",
    "as_images_in_order",
    "as_split",
    "batches_of_images",
    "data_root",
    "from_bytes",
    "images_and_labels",
    "is_one_shot",
    "labelled_images",
    "load_data",
    "pack_images",
    "register",
    "shuffles",
    "stratified",
    "to_bytes",
]
