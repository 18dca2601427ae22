"""Similarity, stitches and attacked images at one setting, under controls to drag (notebook 07)."""

from repsim.support.extras import extra

with extra("explorer", "the explorer needs"):
    from repsim.explorer.backend import Backend
    from repsim.explorer.controls import Explorer
    from repsim.explorer.heat_map import HeatMap
    from repsim.explorer.setting import ATTACK_NAMES, INPUTS, Results, Setting, network_text

__all__ = ["ATTACK_NAMES", "INPUTS", "Backend", "Explorer", "HeatMap", "Results", "Setting", "network_text"]
