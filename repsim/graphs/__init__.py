"""Layer names; networks run up to a layer, and cut in two at one.

A layer is a node of the traced graph, named as torchvision's feature extraction names it
(`layer1.0.add`, `layer1.0.relu_1`), so that residual sums have names too. Networks that cannot be traced
are watched through hooks instead; their layers are their innermost modules.
"""

from repsim.graphs.folding import fold_batchnorm
from repsim.graphs.layer_graph import Ending, Layer, LayerGraph, Layers
from repsim.graphs.observing import Observation, Observer
from repsim.graphs.tracing import capture, trace

__all__ = [
    "Ending",
    "Layer",
    "LayerGraph",
    "Layers",
    "Observation",
    "Observer",
    "capture",
    "fold_batchnorm",
    "trace",
]
