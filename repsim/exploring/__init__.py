"""What is to be seen of two networks at one setting of an explorer: computed once, and kept."""

from repsim.exploring.scenes import Scenes
from repsim.exploring.setting import ATTACK_NAMES, INPUTS, Scene, Setting, network_text

__all__ = ["ATTACK_NAMES", "INPUTS", "Scene", "Scenes", "Setting", "network_text"]
