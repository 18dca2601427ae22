"""Models of the `robustness` package, which wrap a network in an attacker and answer with a tuple."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from repsim.models.wrappers import unwrapped
from repsim.support.compat import import_robustness

_attacker, _custom = import_robustness("attacker"), import_robustness("tools.custom_modules")
_Attacker: Any = _attacker.Attacker


def to_attacker_model(model: nn.Module) -> nn.Module:
    """Wrap a network in the robustness package's `AttackerModel`, for what is written for that package.

    Inside is the same network, by all its weights and layers, with the options that the package's own have:
    `with_latent` also puts out what its last linear layer takes in, `no_relu` leaves its last ReLU out, and
    `fake_relu` passes all gradients through it. The wrapper's own normaliser is neutral, because ours is
    inside; and adversarial images are made on the device that the images are on.

    Returns
    -------
    nn.Module
        In the mode of `model`. Its state is named as in files of that package.
    """
    if unwrapped(model) is not model:
        return model
    first = next(model.parameters())
    channels = first.shape[1] if first.ndim == 4 else 1
    neutral = SimpleNamespace(mean=first.new_zeros(channels), std=first.new_ones(channels))
    wrapper = _attacker.AttackerModel(_with_options(model), neutral)
    wrapper.attacker.__class__ = DeviceFreeAttacker
    for part in (wrapper, wrapper.normalizer, wrapper.attacker, wrapper.attacker.normalize):
        part.training = model.training
    return wrapper


class DeviceFreeAttacker(_Attacker):
    """The package's attacker, which asks for a GPU, on the device that the images are on."""

    def forward(
        self, images: Tensor, target: Tensor, *, orig_input: Tensor | None = None, **options
    ) -> Tensor:
        center = images.detach() if orig_input is None else orig_input
        return super().forward(images, target, orig_input=center.as_subclass(_Staying), **options)


class _Staying(Tensor):
    """A tensor that stays where it is when it is told to go to a GPU."""

    def cuda(self, *where: object, **how: object) -> Tensor:
        return self.as_subclass(Tensor)


def _with_options(model: nn.Module) -> nn.Module:
    """The same network, taking the options of the package's own; itself, where it takes them."""
    if "with_latent" in inspect.signature(model.forward).parameters:
        return model
    kind = type(model)

    class WithOptions(kind):  # type: ignore[valid-type]  # a class made for each class
        def forward(
            self, images: Tensor, with_latent: bool = False, fake_relu: bool = False, no_relu: bool = False
        ) -> Tensor | tuple[Tensor, Tensor]:
            plain = partial(kind.forward, self)
            if not (with_latent or fake_relu or no_relu):
                return plain(images)
            last = _count_relus(self, plain, images) if fake_relu or no_relu else 0
            with _Latent(self) as latent, _ReLUs(last, _custom.FakeReLU.apply if fake_relu else lambda x: x):
                logits = plain(images)
            return (logits, latent.value) if with_latent else logits

    WithOptions.__name__ = WithOptions.__qualname__ = kind.__name__
    twin = copy.copy(model)  # shares its weights and its layers, also those that are replaced later
    twin.__class__ = WithOptions
    return twin


class _Latent:
    """Keeps, inside the block, what a network's last linear layer takes in."""

    def __init__(self, network: nn.Module):
        self.layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        self.value: Tensor | None = None

    def __enter__(self) -> _Latent:
        self.hooks = [layer.register_forward_pre_hook(self._keep) for layer in self.layers]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (self.value,) = inputs


class _ReLUs(TorchFunctionMode):
    """Counts, inside the block, the ReLUs that are computed; the `last` of them is `replacement` instead."""

    CALLS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

    def __init__(self, last: int, replacement: Callable[[Tensor], Tensor]):
        super().__init__()
        self.count, self.last, self.replacement = 0, last, replacement

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.CALLS:
            self.count += 1
            if self.count == self.last:
                return self.replacement(args[0])
        return func(*args, **(kwargs or {}))


def _count_relus(network: nn.Module, plain: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Count the ReLUs that a network computes on its way to the logits.

    Raises
    ------
    ValueError
        It has none, or other activations, so that its last one may be another.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad(), _ReLUs(0, lambda x: x) as relus:
            plain(images[:1])
    finally:
        for module, training in modes:
            module.training = training
    others = (nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh)
    if not relus.count or any(isinstance(module, others) for module, _ in modes):
        raise ValueError(
            f"fake_relu and no_relu are for networks of ReLUs, which {type(network).__name__} is not."
        )
    return relus.count
