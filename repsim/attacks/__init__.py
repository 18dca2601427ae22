"""An attack's norm, ε and steps → adversarial inputs, on any device."""

from repsim.attacks.gabor import Gabor
from repsim.attacks.gradient import STEPS, Attack, fgsm, perturb
from repsim.attacks.jpeg import JPEG
from repsim.attacks.naming import ATTACKS, attack, make_attack, read_attacks
from repsim.attacks.published import APGD, AutoAttack, autoattack
from repsim.attacks.running import AnyAttack, Norm, run_attack
from repsim.attacks.snow import Snow
from repsim.support.epsilons import epsilon_text, parse_epsilon

__all__ = [
    "APGD",
    "ATTACKS",
    "JPEG",
    "STEPS",
    "AnyAttack",
    "Attack",
    "AutoAttack",
    "Gabor",
    "Norm",
    "Snow",
    "attack",
    "autoattack",
    "epsilon_text",
    "fgsm",
    "make_attack",
    "parse_epsilon",
    "perturb",
    "read_attacks",
    "run_attack",
]
