"""What a person drags, and sees at once."""

from repsim.widgets.explorer import Explorer
from repsim.widgets.heat_map import HeatMap

__all__ = ["Explorer", "HeatMap"]
