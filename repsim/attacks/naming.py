"""An attack's name → the attack, and its adversarial images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from repsim.attacks.gabor import Gabor
from repsim.attacks.gradient import Attack, fgsm
from repsim.attacks.jpeg import JPEG
from repsim.attacks.published import APGD, AutoAttack
from repsim.attacks.running import AnyAttack, Norm, run_attack
from repsim.attacks.snow import Snow
from repsim.data import ImageSource
from repsim.support import messages
from repsim.support.epsilons import parse_epsilon
from repsim.support.labels import LabelSource
from repsim.support.options import Length, options

ATTACKS: dict[str, Callable[..., AnyAttack]] = {
    "pgd": Attack,
    "fgsm": fgsm,
    "apgd_ce": partial(APGD, loss="ce"),
    "apgd_dlr": partial(APGD, loss="dlr"),
    "apgd_t": partial(APGD, loss="t"),
    "autoattack": AutoAttack,
    "snow": Snow,
    "jpeg": JPEG,
    "gabor": Gabor,
}


def make_attack(
    name: str, epsilon: float | str, norm: Norm = "linf", *, steps: int | None = None
) -> AnyAttack:
    """An attack by its name, at its usual settings.

    Parameters
    ----------
    epsilon
        In the attack's own unit: of pixels in [0, 1], but for `jpeg`.
    steps
        Of an attack that takes so many as it is told (FGSM takes one, AutoAttack its own number); its usual
        number unless given.

    Raises
    ------
    ValueError
        No attack or norm is called so, or the attack has no such norm.
    """
    if name not in ATTACKS:
        raise ValueError(messages.unknown("attack", name, ATTACKS))
    make = ATTACKS[name]
    takes_steps = steps is not None and "steps" in inspect.signature(make).parameters
    return make(parse_epsilon(epsilon), norm, **({"steps": steps} if takes_steps else {}))


def attack(
    model: nn.Module,
    images: ImageSource,
    labels: LabelSource | None,
    epsilon: float | str,
    norm: Norm = "linf",
    *,
    name: str = "pgd",
    steps: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> Float[Tensor, "n c h w"]:
    """Adversarial images of a network, by a named attack at its usual settings.

    Parameters
    ----------
    model, images, labels, batch_size, seed
        As `run_attack` takes them.
    epsilon, norm, name, steps
        As `make_attack` takes them.

    Returns
    -------
    Tensor
        On the device of `images`, in their dtype; in [0, 1], and at most ε away from them.

    Raises
    ------
    ValueError
        See `make_attack` and `run_attack`.
    """
    chosen = make_attack(name, epsilon, norm, steps=steps)
    return run_attack(model, images, labels, chosen, batch_size=batch_size, seed=seed)


@options("attack option")
class AttackOptions:
    """An attack by its name, and what tells it apart from one at the settings of all.

    Attributes
    ----------
    epsilon
        In the attack's own unit; the common one unless given.
    norm
        Unless given: the common one with the common ε, linf with one of its own.
    """

    attack: str
    epsilon: Length | None = None
    norm: Norm | None = None


def read_attacks(
    chosen: Iterable[str | Mapping[str, object]],
    epsilon: float | str,
    norm: Norm = "linf",
    *,
    steps: int | None = None,
) -> dict[str, AnyAttack]:
    """Attacks as a parameter lists them, by their titles.

    Parameters
    ----------
    chosen
        Names, or `AttackOptions`: `["pgd", {"attack": "pgd", "norm": "l2", "epsilon": "128/255"}]`.
    epsilon, norm
        Of attacks that have none of their own.
    steps
        As `make_attack` takes it.

    Raises
    ------
    ValueError
        No attack or norm is called so, or the attack has no such norm.
    """
    attacks = []
    for each in chosen:
        own = AttackOptions(**({"attack": each} if isinstance(each, str) else each))
        common = "linf" if own.epsilon is not None else norm
        level = epsilon if own.epsilon is None else own.epsilon
        attacks.append(make_attack(own.attack, level, own.norm or common, steps=steps))
    return {attack.title: attack for attack in attacks}
