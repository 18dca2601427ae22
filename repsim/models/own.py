"""Networks by classes of the user's own: `architecture=mymodule:Net(width=4)`.

What is stored names such a class by this text, so that a later process finds it again, and keeps which file
it was defined in. A text must not become a way to call anything: records travel between people. So nothing
but a subclass of `torch.nn.Module`, or a function that makes one, is called, with plain literals (`ast` reads
them). A function has to be defined in the very module that is named; that module is none of Python's own; and
a function of an installed package says by its annotation that it returns a network. Importing the module runs
it, as `import` does: it is looked for where Python looks, the working directory first.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from repsim.models.libraries import LIBRARIES
from repsim.models.variants import split_variants
from repsim.models.wrappers import logits_of
from repsim.support import artifacts, messages
from repsim.support.devices import evaluating

FORM = re.compile(
    r"\s*(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)\s*(?P<call>\(.*\))?\s*", re.S
)
EXAMPLE = "mymodule:Net or mymodule:Net(width=4)"
OTHERS = (*LIBRARIES, "hf", "folder", "packed")  # what other names of ours begin with
GOING_THROUGH = {"children", "named_children", "modules", "named_modules", "_modules"}
CLASSES = ("num_classes", "n_classes", "classes")  # arguments that are given the number of classes


@dataclass(frozen=True)
class OwnClass:
    """A class of networks, or a function that makes one, by the name of its module, with its arguments.

    Attributes
    ----------
    text
        As it was written.
    module, name
        Where it is, and what it is called there.
    arguments, options
        What it is called with.
    """

    text: str
    module: str
    name: str
    arguments: tuple
    options: Mapping[str, object]

    def target(self) -> Callable[..., nn.Module]:
        """The class or function itself; its module is imported.

        Raises
        ------
        ValueError
            There is none, its import fails, or it makes no networks.
        """
        with working_directory_first():
            return _target(self)

    def build(self, num_classes: int) -> nn.Module:
        """Make the network.

        Raises
        ------
        ValueError
            As `target`; or the arguments do not fit, or what is made is no network.
        """
        with working_directory_first():
            target = _target(self)
            options = dict(self.options)
            try:
                signature = inspect.signature(target)
            except (TypeError, ValueError):  # of a class written in C
                signature = None
            if signature is not None:
                options = _with_classes(self, signature, num_classes)
            try:
                # for real, also where others are only outlined: constructors of others may look at numbers
                with torch._C.DisableTorchFunction():
                    network = target(*self.arguments, **options)
            except Exception as error:  # whatever somebody's class raises
                raise ValueError(f"{self.text} could not be made: {type(error).__name__}: {error}") from error
        if not isinstance(network, nn.Module):
            raise ValueError(f"{self.text} gives {type(network).__name__}, not a torch.nn.Module.")
        _check_takes_normalization(self.text, network)
        return network

    def definition(self) -> dict[str, str]:
        """The file that defines it, and its SHA-256; empty where there is no such file."""
        target = self.target()
        try:
            path = inspect.getsourcefile(target)
        except TypeError:
            path = None
        if path is None or not Path(path).is_file():
            return {}
        return {"file": str(Path(path).resolve()), "sha256": artifacts.checksum(Path(path))}


def find_own(text: str) -> OwnClass | None:
    """The class that `mymodule:Net(width=4)` names, not imported yet; None for any other name.

    Raises
    ------
    ValueError
        What stands in its brackets are no literals.
    """
    match = FORM.fullmatch(text)
    if match is None or match["module"] in OTHERS:
        return None
    arguments, options = _literals(text, match["call"] or "()")
    return OwnClass(text, match["module"], match["name"], arguments, options)


def images_of(
    network: nn.Module, channels: Iterable[int], sizes: Iterable[tuple[int, int]]
) -> tuple[tuple[int, int, int], int, bool] | None:
    """The shape of the images that a network takes, by trying, and how many classes it tells apart.

    Returns
    -------
    tuple or None
        Channels, height and width; the number of classes; and whether it takes none of twice the size. None
        where it gives logits for none of these.
    """
    counts = tuple(channels)
    for height, width in sizes:
        for count in counts:
            classes = _classes_of(network, (count, height, width))
            if classes:
                larger = _classes_of(network, (count, 2 * height, 2 * width))
                return (count, height, width), classes, not larger
    return None


def _classes_of(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """The number of classes that it tells apart in such images, 0 where it does not take them."""
    try:
        with torch.no_grad(), evaluating(network):
            return logits_of(network(torch.full((2, *shape), 0.5))).shape[1]
    except Exception:  # whatever operation does not take them
        return 0


def text_of(network: nn.Module) -> str:
    """The text that names the class of a network; with `mymodule` for a module that cannot be imported."""
    kind = type(network)
    module = "mymodule" if kind.__module__ == "__main__" or "<" in kind.__qualname__ else kind.__module__
    parameters = list(inspect.signature(kind).parameters.values())
    needed = [each for each in parameters if each.default is each.empty and each.kind < each.VAR_POSITIONAL]
    return f"{module}:{kind.__name__}{'(…)' if any(each.name not in CLASSES for each in needed) else ''}"


def definition_of(architecture: str) -> dict[str, dict[str, str]]:
    """The entry of a record of what defines an own class; none for any other architecture."""
    own = find_own(split_variants(architecture)[0])
    return {"definition": own.definition()} if own else {}


def check_definition(architecture: str, definition: Mapping[str, str], model: str) -> None:
    """Say where what defines a stored network is missing, or no longer what it was.

    Parameters
    ----------
    definition
        As `OwnClass.definition` gave it when the network was stored; empty where nothing is known.

    Raises
    ------
    ValueError
        It cannot be found.
    """
    own = find_own(split_variants(architecture)[0])
    if own is None:
        return
    kept = definition.get("file", "")
    try:
        now = own.definition()
    except ValueError as error:
        folder = Path(kept).parents[own.module.count(".")] if kept else None
        hint = (
            f" When {model} was stored, it was defined in {kept}: run from {folder}, or with "
            f"PYTHONPATH={folder}."
            if folder
            else ""
        )
        raise ValueError(f"{model} is a {architecture}. {error}{hint}") from error
    if definition and now.get("sha256") != definition.get("sha256"):
        warnings.warn(
            f"{now.get('file', own.module)}, which defines {architecture}, is not what it was when {model} "
            "was stored: where it computes something else now, load the file anew.",
            stacklevel=3,
        )


@contextmanager
def working_directory_first() -> Iterator[None]:
    """Look for modules in the working directory first, as Python does for a script that lies there."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # a module may have been written since the folder was last looked at
    try:
        yield
    finally:
        if here in sys.path:  # its first place, which is ours unless the module moved it
            sys.path.remove(here)


def _check_takes_normalization(text: str, network: nn.Module) -> None:
    """Refuse networks in which our first layer would be met by what they do themselves."""
    if hasattr(network, "normalize"):
        raise ValueError(
            f"{text} has a `normalize` of its own, and repsim puts one in front of every network: name "
            "the class of the network behind it (mean and std in the file are taken over), or call it "
            "otherwise in the class, and load with normalization=none."
        )
    forward = type(network).forward
    if forward is nn.Sequential.forward:  # ours becomes the first of its modules
        return
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    if isinstance(network, nn.Sequential) or set(names) & GOING_THROUGH:
        raise ValueError(
            f"{text} goes through all of its own layers in `forward`, and would meet the normalisation that "
            "repsim puts in front: keep the layers in an nn.Sequential or nn.ModuleList inside."
        )


def _literals(text: str, call: str) -> tuple[tuple, dict[str, object]]:
    try:
        parsed = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(parsed, ast.Call) or not isinstance(parsed.func, ast.Name):
            raise ValueError
        options = {option.arg: ast.literal_eval(option.value) for option in parsed.keywords if option.arg}
        if len(options) < len(parsed.keywords):  # **options, or one twice
            raise ValueError
        return tuple(ast.literal_eval(argument) for argument in parsed.args), options
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"arguments of {text} must be plain values (numbers, texts, lists), as in {EXAMPLE}."
        ) from error


def _target(own: OwnClass) -> Callable[..., nn.Module]:
    if own.module.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{own.text}: {own.module} is a module of Python's own, which has no networks.")
    module = _imported(own)
    target = getattr(module, own.name, None)
    if target is None:
        makes = [name for name, value in vars(module).items() if _makes_networks(value, own.module)]
        raise ValueError(f"{messages.unknown(f'class of {module.__file__}', own.name, makes)}")
    if not _makes_networks(target, own.module):
        if inspect.isfunction(target) and target.__module__ != own.module:
            raise ValueError(
                f"{own.text}: {own.name} is a function of {target.__module__}: write "
                f"{target.__module__}:{target.__name__}."
            )
        raise ValueError(
            f"{own.text}: {own.name} is no subclass of torch.nn.Module, and no function of {own.module} "
            "itself that makes one (of an installed package, by its annotation)."
        )
    return target


def _imported(own: OwnClass):
    try:
        return importlib.import_module(own.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{own.module}.".startswith(f"{error.name}."):
            raise ValueError(f"{own.text}: {own.module} needs {error.name}, which is not there.") from error
        near = sorted({path.stem for path in Path.cwd().glob("*.py")})
        close = messages.unknown("module", error.name, near) if near else f"unknown module {error.name!r}"
        raise ValueError(
            f"{own.text}: {close} It was looked for in the working directory, {Path.cwd()}, and where Python "
            "looks (sys.path): run from its folder, or name that in PYTHONPATH."
        ) from error
    except Exception as error:  # whatever runs when somebody's module is imported
        raise ValueError(
            f"{own.text}: {own.module} could not be imported: {type(error).__name__}: {error}"
        ) from error


def _makes_networks(value: object, module: str) -> bool:
    if inspect.isclass(value):
        return issubclass(value, nn.Module)
    if not inspect.isfunction(value) or value.__module__ != module:
        return False
    return not _is_installed(module) or _returns_network(value)


def _is_installed(module: str) -> bool:
    """Whether a module is of an installed package, whose functions may do anything."""
    path = Path(getattr(sys.modules[module], "__file__", None) or "").resolve()
    places = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    return any(path.is_relative_to(place) for place in places)


def _returns_network(function: Callable) -> bool:
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception:  # annotations that cannot be read say nothing
        return False
    return inspect.isclass(returned) and issubclass(returned, nn.Module)


def _with_classes(own: OwnClass, signature: inspect.Signature, num_classes: int) -> dict[str, object]:
    """The options, with the number of classes where there is an argument for it that is not given."""
    options = dict(own.options)
    try:
        given = signature.bind_partial(*own.arguments, **options).arguments
        asked = [name for name in CLASSES if name in signature.parameters and name not in given]
        options |= dict.fromkeys(asked[:1], num_classes)
        signature.bind(*own.arguments, **options)
    except TypeError as error:
        raise ValueError(
            f"{own.text} does not fit: {error}. It takes {own.name}{signature}; its arguments are written as "
            f"in {EXAMPLE}."
        ) from error
    return options
