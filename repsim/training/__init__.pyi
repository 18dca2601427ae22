from .augmentation import augmented
from .evaluation import accuracy, predict, robust_accuracy
from .loading import describe, load_model, load_models
from .loop import train
from .model_store import TrainedModel
from .optimization import Diverged
from .recipe import Recipe

__all__ = [
    "Diverged",
    "Recipe",
    "TrainedModel",
    "accuracy",
    "augmented",
    "describe",
    "load_model",
    "load_models",
    "predict",
    "robust_accuracy",
    "train",
]
