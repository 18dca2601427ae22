"""How soon a network's layers are known: trace, beside a plain sketch of what it takes.

The sketch is torchvision's tracer and one pass of torch.fx's interpreter over five images, which notes the
shape of every value.
"""

from __future__ import annotations

from importlib import import_module

import torch
from measuring import THREADS, Row, best_times, show
from torch import fx, nn

from repsim.activations import trace
from repsim.support.compat import torchvision

SHAPE = (3, 224, 224)
IMAGES, REPEATS = 5, 5


class Shapes(fx.Interpreter):
    """Notes the shape of everything that is computed."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        if isinstance(value, torch.Tensor) and node.op != "output":
            self.shapes[node] = value.shape
        return value


def plainly(network: nn.Module) -> dict[str, torch.Size]:
    """Name → shape, by the plain way."""
    tracer = import_module("torchvision.models.feature_extraction").NodePathTracer()  # after the mend
    graph = tracer.trace(network)
    interpreter = Shapes(fx.GraphModule(network, graph))
    with torch.no_grad():
        interpreter.run(torch.full((IMAGES, *SHAPE), 0.5))
    return {tracer.node_to_qualname[node]: shape for node, shape in interpreter.shapes.items()}


def main() -> None:
    network = torchvision.models.resnet50(weights=None).eval()
    images = torch.full((IMAGES, *SHAPE), 0.5)

    def forward() -> None:
        with torch.no_grad():
            network(images)

    seconds = best_times(
        {
            "forward": forward,
            "sketch": lambda: plainly(network),
            "ours": lambda: trace(network, SHAPE),
        },
        REPEATS,
    )
    ours, sketch = seconds["ours"], seconds["sketch"]
    rows = [
        Row(f"one forward pass of {IMAGES} images", f"{seconds['forward']:.2f} s"),
        Row("torchvision's tracer and one interpreted pass", f"{sketch:.2f} s"),
        Row("trace ÷ that", f"{ours:.2f} s", ours / sketch, at_most=1.5),
    ]
    show("The layers of ResNet-50, 224 × 224 pixels", rows, [f"Best of {REPEATS}, taken in turn."])


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    main()
