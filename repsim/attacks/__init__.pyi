from .gabor import Gabor
from .gradient import STEPS, Attack, fgsm, perturb
from .jpeg import JPEG
from .naming import ATTACKS, attack, make_attack, read_attacks
from .published import APGD, AutoAttack, autoattack
from .running import AnyAttack, Norm, epsilon_text, parse_epsilon, run_attack
from .snow import Snow

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
