"""Similarity, stitches and attacked images at one setting, under controls to drag (notebook 07)."""

from repsim.explorer.controls import Explorer
from repsim.explorer.heat_map import HeatMap
from repsim.explorer.scenes import Scenes
from repsim.explorer.setting import ATTACK_NAMES, INPUTS, Scene, Setting, network_text

__all__ = ["ATTACK_NAMES", "INPUTS", "Explorer", "HeatMap", "Scene", "Scenes", "Setting", "network_text"]
