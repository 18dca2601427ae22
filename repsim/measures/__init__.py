"""Similarity measures: pure functions of two representations, or of two tables of predictions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
