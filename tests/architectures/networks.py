"""Every network of the sweep: its library, its name, and how it is built, random and for small images.

* torchvision: every classification architecture that it lists.
* timm: the names in `timm_networks.txt`, spread over all of its families.
* transformers: every image classifier that it maps, tiny (see `transformers_networks.py`).
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers_networks
from torch import Tensor, nn

from repsim.support.compat import torchvision

LIBRARIES = ("torchvision", "timm", "transformers")
SIDES = (64, 96, 128, 192, 224, 256)
IMAGES = 8  # as many as the statistics of BatchNorm are made from, and CKA is computed for
PATCHES = {"vit_h_14": 56, "vit_b_32": 128, "vit_l_32": 128}  # sides of four patches


def names_of(library: str) -> list[str]:
    if library == "torchvision":
        return torchvision.models.list_models(module=torchvision.models)
    if library == "timm":
        lines = (Path(__file__).parent / "timm_networks.txt").read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]
    return transformers_networks.names()


def build(library: str, name: str) -> tuple[nn.Module, int]:
    """A network with random weights, in evaluation mode, and the side of images that it takes.

    The side is the smallest of `SIDES`, and of the network's own, at which it runs.
    """
    torch.manual_seed(0)
    if library == "torchvision":
        return _first_that_runs(_torchvision_attempts(name))
    if library == "timm":
        return _first_that_runs(_timm_attempts(name))
    return transformers_networks.build(name).eval(), transformers_networks.SIDE


def _torchvision_attempts(name: str):
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit_"):
        side = PATCHES.get(name, 64)
        yield side, lambda: torchvision.models.get_model(name, weights=None, image_size=side)
        return
    for side in SIDES:
        yield side, lambda: torchvision.models.get_model(name, weights=None, **options)


def _timm_attempts(name: str):
    import timm

    own = timm.create_model(name, pretrained=False).pretrained_cfg["input_size"][-1]
    for side in (*(side for side in SIDES if side < own), own):
        yield side, lambda side=side: timm.create_model(name, pretrained=False, img_size=side)
        yield side, lambda: timm.create_model(name, pretrained=False)


def _first_that_runs(attempts) -> tuple[nn.Module, int]:
    error = None
    for side, make in attempts:
        try:
            network = make().eval()
            with torch.no_grad():
                network(torch.rand(2, 3, side, side))
        except Exception as found:  # too small for it, or it takes no size: the next
            error = found
        else:
            return network, side
    raise error


@torch.no_grad()
def randomize(network: nn.Module, images: Tensor) -> None:
    """Move every weight and statistic: no two layers agree by chance, nothing is switched off by a zero.

    Weights move by a tenth of their own spread, so that values neither vanish nor explode with depth.
    BatchNorm takes the statistics of `images`, which then move too.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.is_floating_point():
            spread = weight.std().item() if weight.numel() > 1 else 0.0
            # what is all but constant (scales that begin at 1e-5, say) would switch its branch off
            spread = spread if spread > 1e-3 else 1.0
            weight.add_(0.1 * spread * torch.randn(weight.shape, generator=generator))
    normalizations = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    momenta = [module.momentum for module in normalizations]
    for module in normalizations:
        module.momentum = 1.0
        module.train()
    network(images)
    for module, momentum in zip(normalizations, momenta, strict=True):
        module.momentum = momentum
        module.eval()
        spread = module.running_var.sqrt()
        module.running_mean.add_(0.1 * spread * torch.randn(spread.shape, generator=generator))
        module.running_var.mul_(0.5 + 1.5 * torch.rand(spread.shape, generator=generator))
    network.train().eval()  # timm's LeViT and others keep what they have made of their weights until then
