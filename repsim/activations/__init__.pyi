from .folding import channels_side_by_side, fold_batchnorm
from .layer_graph import Layer, LayerGraph, Layers, Layout, Suffix
from .observing import Observation, Observer
from .rows import as_rows
from .tracing import capture, layers, trace

__all__ = [
    "Layer",
    "LayerGraph",
    "Layers",
    "Layout",
    "Observation",
    "Observer",
    "Suffix",
    "as_rows",
    "capture",
    "channels_side_by_side",
    "fold_batchnorm",
    "layers",
    "trace",
]
