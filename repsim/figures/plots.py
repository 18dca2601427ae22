"""All pictures, and saving them: a tidy table in, a matplotlib figure out. Nothing is computed here."""

from repsim.support.extras import extra

with extra("notebooks", "pictures need"):
    from repsim.figures.curves import curves, facets, panels
    from repsim.figures.distributions import bars, boxes, points
    from repsim.figures.images import image_grid
    from repsim.figures.maps import heat_maps, model_maps
    from repsim.figures.saving import save, save_table

__all__ = [
    "bars",
    "boxes",
    "curves",
    "facets",
    "heat_maps",
    "image_grid",
    "model_maps",
    "panels",
    "points",
    "save",
    "save_table",
]
