"""Layer names; networks run up to a layer, and cut in two at one.

A layer is the call of an innermost module, by the module's path (a second call is `relu_1`), or a residual
sum (`layer1.0.add`). They are read from a graph of the network's operations, which is used only after it has
given what the network gives; else by hooks, which see no sums.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
