"""Networks trained from recipes, stored, and loaded again: the committed zoo, and files of others."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
