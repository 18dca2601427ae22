"""Places of weights in what a file holds, and the choice among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repsim.models.checkpoints.pickled import is_network, tensors_of
from repsim.models.checkpoints.unwrapping import WRAPPERS
from repsim.support import messages

# Names under which files hold the weights that were trained; the first that is there.
CONTAINERS = (
    *("model", "state_dict", "model_state_dict", "net", "model_state", "network", "weights", "params"),
    *("module", "classifier", "state", "last", "best", "best_model"),
)
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged)(?:$|[._])", re.IGNORECASE)
# What holds tensors of training, and no network.
OF_TRAINING = re.compile(
    r"(?:^|[._])optim(?:$|[._])|optimizer|^opt$|sched|scaler|^amp$|^loops$|rng|^args$|hparams|hyper_parameters",
    re.IGNORECASE,
)
SLOTS = {  # what optimizers keep for each weight
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "acc_delta", "grad_avg"),
    *("exp_inf", "sum", "step", "prev"),
}
ANY_AVERAGE = "ema"  # the word that chooses averaged weights, whatever they are called
LISTED = 8  # keys of a file that a message names


@dataclass(frozen=True)
class Place:
    """A place in a file with the weights of a network: its keys from the outside in, and what lies there."""

    path: tuple[str, ...]
    held: object

    @property
    def name(self) -> str:
        """Its keys with dots between them; nothing where the file is the weights."""
        return ".".join(self.path)

    @property
    def is_average(self) -> bool:
        return any(AVERAGED.search(part) for part in self.path)

    @property
    def network(self) -> object | None:
        """The pickled network that lies there whole; None where there are named tensors."""
        return self.held if is_network(self.held) else None

    def weights(self) -> dict[str, Tensor]:
        """Names → tensors, as the file has them."""
        if isinstance(self.held, Mapping):
            return {
                key: tensor_of(value)
                for key, value in self.held.items()
                if isinstance(key, str) and isinstance(value, Tensor | np.ndarray)
            }
        return dict(tensors_of(self.held))


def tensor_of(value: Tensor | np.ndarray) -> Tensor:
    """A tensor, be it sparse or quantised, or an array of NumPy in any order of bytes, as a dense one."""
    if isinstance(value, Tensor):
        value = value.dequantize() if value.is_quantized else value
        return (value if value.layout == torch.strided else value.to_dense()).detach()
    ours = np.require(value, value.dtype.newbyteorder("="), ["C", "W"])
    return torch.from_numpy(ours)


def choose(content: object, wanted: str, source: str) -> tuple[Place, list[str]]:
    """Find the weights in what a file holds: those that were asked for, or those that were trained.

    Parameters
    ----------
    wanted
        A key of the file, dotted where it is inside of others; `ema` for averaged weights under any name; ""
        for the usual ones, before averages of them.

    Raises
    ------
    ValueError
        There are none; none of that name; or several, none of which is usual.
    """
    found = list(places(content))
    if not found:
        raise ValueError(_nothing(content, source))
    if wanted:
        return _asked_for(found, wanted, source)
    if len(found) == 1:
        place = found[0]
        known = not place.path or (_rank(place) is not None and not place.is_average)
        return place, [] if known else [f"Its weights are under {place.name!r}: there are no others in it."]
    ranked = sorted((each for each in found if _rank(each) is not None), key=_rank)
    names = [each.name or "itself" for each in found]
    if not ranked:
        raise ValueError(
            f"{source} holds the weights of several networks ({', '.join(names)}): say which is meant, such "
            f"as weights={names[0]}."
        )
    taken = ranked[0]
    others = [each for each in found if each is not taken]
    said = " and ".join(f"{each.name}{' (averaged)' if each.is_average else ''}" for each in others)
    averaged = [each for each in others if each.is_average]
    choice = ANY_AVERAGE if averaged else others[0].name
    which = "the averaged ones" if averaged else "the others"
    return taken, [
        f"It holds weights as {taken.name or 'plain keys'}, which were taken, and as {said}: "
        f"weights={choice} takes {which}."
    ]


def places(content: object) -> Iterator[Place]:
    """Every place with weights, outermost first; not those around another place that holds more tensors."""
    found = list(_places(content, (), set()))
    for place in found:
        inner = [each for each in found if each.path[: len(place.path)] == place.path and each is not place]
        if all(_size(place.held) >= _size(each.held) for each in inner):
            yield place


def _places(content: object, path: tuple[str, ...], seen: set[int]) -> Iterator[Place]:
    if id(content) in seen or (path and OF_TRAINING.search(path[-1])):
        return
    if is_network(content):
        yield Place(path, content)
    elif isinstance(content, Mapping):
        seen.add(id(content))  # pickles can hold themselves
        if is_optimizer(content):
            return
        if _is_state(content):
            yield from _averages_apart(content, path)
        for key, value in content.items():
            yield from _places(value, (*path, str(key)), seen)
    elif isinstance(content, list | tuple):
        seen.add(id(content))
        for index, value in enumerate(content):
            if not isinstance(value, Tensor | np.ndarray):
                yield from _places(value, (*path, str(index)), seen)
    elif hasattr(content, "__dict__") and not isinstance(content, Tensor | type):  # such as fastai's Learner
        seen.add(id(content))
        held = {name: vars(content)[name] for name in CONTAINERS if name in vars(content)}
        for name, value in held.items():
            yield from _places(value, (*path, name), seen)


def _averages_apart(state: Mapping, path: tuple[str, ...]) -> Iterator[Place]:
    """The weights of a state dict, and those of averaged copies in it, whose names begin otherwise."""
    names = {str(key): WRAPPERS.sub("", str(key)).partition(".")[0] for key in state}
    copies = {}
    for name in sorted({name for name in names.values() if AVERAGED.search(name)}):
        inner = {key: value for key, value in state.items() if names[str(key)] == name}
        if _is_state(inner):
            copies[name] = inner
    rest = {key: value for key, value in state.items() if names[str(key)] not in copies}
    if not copies or not _is_state(rest):
        yield Place(path, state)
        return
    yield Place(path, rest)
    yield from (Place((*path, name), inner) for name, inner in copies.items())


def is_optimizer(content: object) -> bool:
    """Whether this is the `state_dict()` of an optimizer, or what it keeps for one weight."""
    if not isinstance(content, Mapping) or not content:
        return False
    return {"state", "param_groups"} <= set(content) or set(content) <= SLOTS


def _is_state(content: Mapping) -> bool:
    """Whether there are named tensors, of which one could be a layer's weights."""
    tensors = [(key, value) for key, value in content.items() if isinstance(value, Tensor | np.ndarray)]
    return any(value.ndim >= 2 and _is_floating(value) for _, value in tensors) and all(
        isinstance(key, str) for key, _ in tensors
    )


def _is_floating(value: Tensor | np.ndarray) -> bool:
    return value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind == "f"


def _size(held: object) -> int:
    if isinstance(held, Mapping):
        return sum(isinstance(value, Tensor | np.ndarray) for value in held.values())
    return sum(1 for _ in tensors_of(held))


def _rank(place: Place) -> tuple[bool, int, int] | None:
    """The order in which weights are taken; None for those of no usual name."""
    if not place.path:
        return False, 0, 0
    known = [CONTAINERS.index(part) for part in place.path if part in CONTAINERS]
    if place.is_average:
        return True, 0, 0
    return (False, 1 + known[0], len(place.path)) if known else None


def _asked_for(found: list[Place], wanted: str, source: str) -> tuple[Place, list[str]]:
    averaged = [each for each in found if each.is_average]
    fitting = [each for each in found if each.name == wanted]
    fitting += [each for each in found if each.name.endswith(f".{wanted}")]
    if wanted == ANY_AVERAGE:
        fitting += averaged
    fitting += [part for each in found if (part := _part(each, wanted))]
    if fitting:
        return fitting[0], [f"Its weights are {fitting[0].name}, as asked."]
    names = [each.name for each in found if each.path] + ([ANY_AVERAGE] if averaged else [])
    if not names:
        raise ValueError(
            f"{source} holds one network, under no name: leave weights out (there is no {wanted!r} in it)."
        )
    raise ValueError(f"{source}: {messages.unknown('weights', wanted, names)}")


def _part(place: Place, wanted: str) -> Place | None:
    """Part of a place: its names that begin so, behind whatever they begin with before."""
    beginning = wanted.removeprefix(f"{place.name}.")
    matches = [re.fullmatch(rf"((?:.*?\.)?{re.escape(beginning)})\.(.+)", key) for key in place.weights()]
    prefixes = sorted({match[1] for match in matches if match}, key=len)
    if not prefixes:
        return None
    start = f"{prefixes[0]}."
    inner = {
        key.removeprefix(start): value for key, value in place.weights().items() if key.startswith(start)
    }
    return Place((*place.path, *prefixes[0].split(".")), inner) if _is_state(inner) else None


def _nothing(content: object, source: str) -> str:
    if is_optimizer(content):
        return (
            f"{source} holds the state of an optimizer, without the weights of a network: give the file that "
            "was saved beside it for the network's state_dict()."
        )
    if isinstance(content, Mapping):
        held = ", ".join(f"{key!r}" for key in list(content)[:LISTED]) or "nothing"
        kind = f"a mapping of {held}"
    else:
        kind = f"a {type(content).__name__}"
    return (
        f"{source} holds no weights of a network: it is {kind}. Expected names → tensors, as "
        "torch.save(network.state_dict(), FILE) writes them."
    )
