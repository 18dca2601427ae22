"""A name → a `Dataset`: training and test images in [0, 1], their labels, classes and normalisation.

Adding a data set is one function that returns its two splits, under `@register("name")`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
