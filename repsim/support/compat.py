"""Old and new torch, torchvision and robustness, working together.

Import torchvision and robustness from here (`from repsim.support.compat import torchvision`). Each mend
is made only where its fault is present, and only once:

* a torchvision wheel built for CUDA cannot load its compiled operators beside a CPU build of torch, and
  then fails on import because it registers fakes for operators that nobody defined. Defining their
  schemas first lets it import; models, transforms, data sets and feature extraction need no more.
* robustness 1.2.1 imports `torchvision.models.utils`, which torchvision removed in 0.13; all that it
  took from there lives in `torch.hub`.
* robustbench 1.1 imports `autoattack`, while the package of that code is named `pyautoattack`, and
  `pkg_resources`, which setuptools removed in 81, for the place of a file.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator

import torch

from repsim.support.extras import extra

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_defined: list[torch.library.Library] = []  # a torch.library definition lasts as long as its handle


def import_torchvision() -> types.ModuleType:
    """Import torchvision, defining the operators that its unloadable extension should have defined."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if not _MISSING_OPERATOR.search(str(error)) or _defined:
            raise
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)
    _defined.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # the failed import left half-initialised modules behind
    return importlib.import_module("torchvision")


def alias_model_utils() -> None:
    """Give `torchvision.models.utils` back to robustness where torchvision no longer has it."""
    name = "torchvision.models.utils"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        alias = types.ModuleType(name, "Where robustness looks for torch.hub's loader.")
        alias.load_state_dict_from_url = torch.hub.load_state_dict_from_url
        sys.modules[name] = alias


def import_robustness(module: str) -> types.ModuleType:
    """Import `robustness.<module>`, whose docstrings hold invalid escape sequences."""
    alias_model_utils()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"robustness.{module}")


@contextlib.contextmanager
def old_names() -> Iterator[None]:
    """Give robustbench `autoattack`, and inside the block `pkg_resources`, by these names.

    The latter goes again: others take it for the real one where they see it.
    """
    with contextlib.suppress(ModuleNotFoundError):
        sys.modules.setdefault("autoattack", importlib.import_module("pyautoattack"))
        sys.modules.setdefault("autoattack.state", importlib.import_module("pyautoattack.state"))
    if "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
        alias = types.ModuleType("pkg_resources", "What robustbench takes from setuptools before 81.")
        alias.resource_filename = lambda module, name: os.path.join(
            os.path.dirname(sys.modules[module].__file__), name
        )
        sys.modules["pkg_resources"] = alias
        try:
            yield
        finally:
            del sys.modules["pkg_resources"]
    else:
        yield


def import_robustbench(module: str) -> types.ModuleType:
    """Import `robustbench.<module>`.

    Raises
    ------
    RuntimeError
        It, or a package that it needs, is not installed.
    """
    with extra("robustbench", "models of RobustBench need"), old_names(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own code and of what it imports
        return importlib.import_module(f"robustbench.{module}")


torchvision = import_torchvision()
