from .dataset import Augmentation, Dataset, Request, Source, register
from .folders import IMAGE_SUFFIXES
from .images import (
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
from .loading import LOADERS, data_root, load_data
from .packing import pack_images
from .splits import Split, from_bytes, stratified, to_bytes
from .streaming import StreamedSplit, UnreadableImage

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
