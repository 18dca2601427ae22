"""Layer names; networks run up to a layer, and cut in two at one.

A layer is the call of an innermost module, by the module's path (a second call is `relu_1`), or a residual
sum (`layer1.0.add`). They are read from a graph of the network's operations, which is used only after it has
given what the network gives; else by hooks, which see no sums.
"""

from repsim.activations.folding import fold_batchnorm
from repsim.activations.layer_graph import Layer, LayerGraph, Layers, Layout, Suffix
from repsim.activations.observing import Observation, Observer
from repsim.activations.rows import as_rows
from repsim.activations.tracing import capture, layers, trace

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
    "fold_batchnorm",
    "layers",
    "trace",
]
