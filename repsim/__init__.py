"""Representations inside neural networks, and the effect of adversarial robustness on them.

A first script needs no more than the names here; each is loaded when it is asked for, from the room that has
the rest of its kind.
"""

import lazy_loader

__version__ = "0.2.0.dev0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
