"""The place and state in which networks compute: device, dtype, memory format, mode, random numbers.

Modes of networks and torch's random state belong to the whole process. Several threads may ask for them at
once, so that both are guarded here, for all of repsim.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from repsim.support import messages

DEVICES = ("auto", "cpu", "cuda")  # as they are usually asked for
Precision = Literal["float32", "bfloat16"]
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16")  # as torch names them

_modes_lock = threading.Lock()
_modes: WeakKeyDictionary[nn.Module, list] = WeakKeyDictionary()  # module → [who evaluates it, mode before]
_random_lock = threading.RLock()


def resolve_device(device: str) -> torch.device:
    """`auto` is the accelerator where there is one, else the CPU.

    Raises
    ------
    ValueError
        Torch knows no such device, or there is none here.
    """
    if device == "auto":
        if not torch.accelerator.is_available():
            return torch.device("cpu")
        return torch.accelerator.current_accelerator()
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(messages.unknown("device", device, DEVICES)) from error
    if found.type == "cuda" and (found.index or 0) >= (there := torch.cuda.device_count()):
        known = f"cuda:0 to cuda:{there - 1}" if there > 1 else "cuda:0" if there else "none"
        raise ValueError(
            f"there is no device {device!r} here (of CUDA: {known}); 'auto' takes what there is."
        )
    return found


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's weights; the CPU, where it has none."""
    held = next(network.parameters(), None)
    held = next(network.buffers(), None) if held is None else held
    return torch.device("cpu") if held is None else held.device


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that a device does not compute in itself.

    Raises
    ------
    ValueError
        It is bfloat16, and the device has no instructions for it: it would take longer than float32.
    """
    if precision == "bfloat16" and not _multiplies_bfloat16(device):
        where = "processor" if device.type == "cpu" else f"device ({device})"
        raise ValueError(
            f"this {where} does not multiply bfloat16 itself, and is faster with precision='float32'. What "
            "was trained or made in bfloat16 elsewhere can be used on it all the same."
        )


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.11
            return torch.cpu._is_avx512_bf16_supported()
        return any(torch.cpu.get_capabilities().get(name) for name in BFLOAT16_INSTRUCTIONS)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def rounding_to(precision: Precision, device: torch.device) -> torch.autocast:
    """A block in which convolutions and products round what they take to `precision`; weights stay."""
    # No cache: older torch would keep the casts of a no_grad pass, and the weights get no gradient.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the inputs of float32's products and convolutions to TF32 inside the block."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [each.allow_tf32 for each in flags]
    try:
        for each in flags:
            each.allow_tf32 = allowed
        yield
    finally:
        for each, value in zip(flags, before, strict=True):
            each.allow_tf32 = value


def training_format(device: torch.device) -> torch.memory_format:
    """Choose the memory format of weights and images while a network is trained, by this thread.

    Convolutions of small networks take up to half the time when channels lie side by side. On a CPU this is
    for one thread only: with several, torch 2.13 can corrupt memory while it computes gradients of weights,
    if the weights or the images have their channels last.
    """
    if device.type == "cpu" and torch.get_num_threads() > 1:
        return torch.contiguous_format
    return torch.channels_last


def laid_out(tensor: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A tensor in a memory format, itself where it lies so already; only maps (n, c, h, w) have formats.

    Unlike `Tensor.contiguous`, this also takes the strides of another format off where one channel, or maps
    of one pixel, make them the same thing: convolutions choose their ways by the strides alone.
    """
    if tensor.dim() != 4:
        return tensor
    strides = torch.empty(tensor.shape, memory_format=memory_format, device="meta").stride()
    return tensor if tensor.stride() == strides else tensor.clone(memory_format=memory_format)


def lay_out(network: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Bring the weights of a network, which stay the same objects, into a memory format; see `laid_out`."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = laid_out(tensor.data, memory_format)
    return network


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Put a network into evaluation mode inside the block, and each of its modules back after it.

    Where several threads do so at once, or blocks are nested, modules go back when the last of them is done.
    A copy that is made inside the block stays in evaluation mode.
    """
    modules = list(network.modules())
    with _modes_lock:
        for module in modules:
            _modes.setdefault(module, [0, module.training])[0] += 1
    try:
        network.eval()  # nobody puts these modules back now; it may be the network's own, and fail
        yield network
    finally:
        with _modes_lock:
            for module in modules:
                held = _modes[module]
                held[0] -= 1
                if not held[0]:
                    module.training = held[1]
                    del _modes[module]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers from `seed` inside the block; the caller's random state is as before after it.

    Torch has one random state for all threads: one thread at a time is inside.
    """
    on_cuda = device.type == "cuda"
    with _random_lock, torch.random.fork_rng(range(torch.cuda.device_count()) if on_cuda else []):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` seeds all accelerators as well
        else:
            torch.manual_seed(seed)
        yield
