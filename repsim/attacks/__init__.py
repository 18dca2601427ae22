"""An attack's norm, ε and steps → adversarial inputs, on any device."""

from repsim.attacks.epsilons import epsilon_text, parse_epsilon
from repsim.attacks.gabor import Gabor
from repsim.attacks.gradient import STEPS, Attack, fgsm, perturb
from repsim.attacks.jpeg import JPEG
from repsim.attacks.naming import ATTACKS, make_attack, read_attacks
from repsim.attacks.published import APGD, AutoAttack, autoattack
from repsim.attacks.running import AnyAttack, Norm, device_of, evaluating, run_attack, seeded
from repsim.attacks.snow import Snow

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
    "autoattack",
    "device_of",
    "epsilon_text",
    "evaluating",
    "fgsm",
    "make_attack",
    "parse_epsilon",
    "perturb",
    "read_attacks",
    "run_attack",
    "seeded",
]
