"""Networks that other packages build: torchvision, robustness, timm, RobustBench, each by its prefix."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable
from functools import cache

from torch import Tensor, nn

from repsim.support import messages
from repsim.support.compat import import_robustbench, import_robustness, torchvision
from repsim.support.extras import extra

ImageShape = tuple[int, int, int]


def torchvision_names() -> list[str]:
    """The classifiers of torchvision."""
    return torchvision.models.list_models(module=torchvision.models)


def check_torchvision(name: str) -> None:
    """Refuse what is no classifier of torchvision, naming the nearest."""
    if name not in torchvision_names():
        known = [f"torchvision:{known}" for known in torchvision_names()]
        raise ValueError(messages.unknown("model", f"torchvision:{name}", known))


def torchvision_network(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A classifier of torchvision with its own stem, untrained."""
    check_torchvision(name)
    _need_colour(f"torchvision's {name}", image_shape)
    # init_weights and aux_logits are warned about, or returned as a tuple, by GoogLeNet and Inception only.
    options: dict = (
        {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    )
    if name.startswith("vit_"):
        options["image_size"] = image_shape[-1]  # they hold one position per patch
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    except AssertionError as error:
        raise ValueError(f"torchvision's {name} and images of {image_shape[-1]} pixels: {error}") from error


@cache
def robustness_builders() -> dict[str, Callable[..., nn.Module]]:
    """`cifar/resnet18`, `imagenet/resnet50`, …: robustness' networks by their names there."""
    found = {}
    for data in ("cifar", "imagenet"):
        for name, build in vars(import_robustness(f"{data}_models")).items():
            # those that its own data sets can build: its thin ResNet and its own test cannot be called
            if inspect.isfunction(build) and name not in ("test", "ResNet18Thin", "inceptionv3"):
                found.setdefault(f"{data}/{name.lower()}", build)
    return found


def robustness_network(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A network of the robustness package, untrained; it puts out logits, and takes its three options."""
    builders = robustness_builders()
    if name not in builders:
        raise ValueError(messages.unknown("model of robustness", name, builders))
    _need_colour(f"robustness' {name}", image_shape)
    options = {}
    if name.startswith("cifar/"):
        _, height, width = image_shape
        cells = (height // 32) * (width // 32)  # of 4 × 4 pooling after three halvings
        if name.startswith("cifar/resnet") and cells:
            options["feat_scale"] = cells
        elif cells != 1:
            raise ValueError(f"robustness' {name} takes images of 32 × 32 pixels, not {height} × {width}.")
    return builders[name](num_classes=num_classes, **options)


def timm_network(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A classifier of timm, untrained.

    Raises
    ------
    RuntimeError
        timm is not installed.
    """
    timm = import_timm()
    base = name.partition(".")[0]  # what follows names weights
    if base not in timm.list_models():
        raise ValueError(messages.unknown("model of timm", name, timm.list_models()))
    options = {"num_classes": num_classes, "in_chans": image_shape[0]}
    try:  # transformers hold one position per patch
        return timm.create_model(name, pretrained=False, img_size=tuple(image_shape[1:]), **options)
    except TypeError:  # convolutional networks take images of any size, and no such option
        return timm.create_model(name, pretrained=False, **options)


def timm_side(name: str) -> int:
    """The height and width of the images that a model of timm is usually for; 224 where timm does not say."""
    settings = import_timm().models.get_pretrained_cfg(name.partition(".")[0])
    return settings.input_size[-1] if settings and settings.input_size else 224


def import_timm():
    """The package timm, or what to do where it is missing."""
    with extra("timm", "models of timm need"):
        import timm
    return timm


def robustbench_entries() -> dict[tuple[str, str, str], dict]:
    """(data set, threat model, name) → how RobustBench builds each of its models."""
    models = import_robustbench("model_zoo.models").model_dicts
    return {
        (data.value, threat.value, name): entry
        for data, threats in models.items()
        for threat, entries in threats.items()
        for name, entry in entries.items()
    }


def find_robustbench(name: str) -> tuple[str, str, str]:
    """Data set, threat model and name of an entry of RobustBench, from its name or `cifar10/Linf/NAME`.

    A name that stands under several is the first: CIFAR-10 before CIFAR-100 and ImageNet, Linf before L2.
    """
    entries = robustbench_entries()
    matching = [each for each in entries if name in (each[2], "/".join(each))]
    if not matching:
        names = dict.fromkeys(each[2] for each in entries)
        raise ValueError(messages.unknown("model of RobustBench", name.rpartition("/")[2], names))
    return matching[0]


def robustbench_classes(name: str) -> int:
    """Count the classes of the data set of `robustbench:cifar10/Linf/NAME`."""
    data, _, _ = find_robustbench(name.removeprefix("robustbench:"))
    return {"cifar10": 10, "cifar100": 100}.get(data, 1000)


def robustbench_network(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """The network of an entry of RobustBench, untrained; most of them normalise inside."""
    data, threat, model = find_robustbench(name)
    _need_colour(f"RobustBench's {name}", image_shape)
    registered = re.sub("-", "_", f"{model}_{data}_{threat}".lower())  # those that timm builds for it
    if import_timm().is_model(registered):
        return without_normalize(import_timm().create_model(registered))
    return without_normalize(robustbench_entries()[data, threat, model]["model"]())


class Enclosed(nn.Module):
    """A network one level further inside, where our normalisation cannot meet layers of its own."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.inside = network

    def forward(self, images: Tensor) -> Tensor:
        return self.inside(images)


def without_normalize(network: nn.Module) -> nn.Module:
    """A network that takes our normalisation as its part, rather than as its own or as one more step."""
    taken = hasattr(network, "normalize") or isinstance(network, nn.Sequential)
    return Enclosed(network) if taken else network


LIBRARIES: dict[str, Callable[[str, ImageShape, int], nn.Module]] = {
    "torchvision": torchvision_network,
    "robustness": robustness_network,
    "timm": timm_network,
    "robustbench": robustbench_network,
}


def is_installed(name: str) -> bool:
    """Whether the package that builds `timm:NAME` or another such network is installed."""
    library = name.partition(":")[0]
    return importlib.util.find_spec(library) is not None


def split_library(name: str) -> tuple[str, str] | None:
    """`torchvision:resnet18` as its two parts; None where no known package is named."""
    match = re.fullmatch(rf"({'|'.join(LIBRARIES)}):(.+)", name)
    return (match[1], match[2]) if match else None


def _need_colour(owner: str, image_shape: ImageShape) -> None:
    if image_shape[0] != 3:
        raise ValueError(f"{owner} takes 3 channels, the images have {image_shape[0]}.")
