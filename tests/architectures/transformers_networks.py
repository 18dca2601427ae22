"""Vision classifiers of Hugging Face transformers, tiny ones built from their configurations: no download.

Every class of `MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES` in 5.24.0 is here, but for those in `LEFT_OUT`.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

SIDE = 64
LABELS = 7  # as no width or number of tokens below

# What most vision transformers call their sizes.
TRANSFORMER = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": SIDE,
    "patch_size": 16,
}
WINDOWS = {
    "image_size": SIDE,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
STAGES = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [2, 1, 1, 1]}
LOCAL = {"kernel_size": 3, "dilations": [[1, 2], [1, 2]]}
TOWER = {"vision_config": TRANSFORMER}
LEVIT = {
    "image_size": SIDE,
    "hidden_sizes": [32, 48, 64],
    "num_attention_heads": [2, 3, 4],
    "depths": [2, 2, 2],
    "key_dim": [8, 8, 8],
}
PERCEIVER = {
    "num_latents": 12,
    "d_latents": 40,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 1,
    "image_size": SIDE,
}

# Class without "ForImageClassification…" → its configuration.
NETWORKS: dict[str, tuple[str, dict]] = {
    "BeitForImageClassification": ("BeitConfig", TRANSFORMER),
    "BitForImageClassification": (
        "BitConfig",
        {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 1, 1], "num_groups": 4},
    ),
    "CLIPForImageClassification": ("CLIPConfig", TOWER),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
    ),
    "ConvNextV2ForImageClassification": (
        "ConvNextV2Config",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
    ),
    "CvtForImageClassification": (
        "CvtConfig",
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    ),
    "Data2VecVisionForImageClassification": ("Data2VecVisionConfig", TRANSFORMER),
    "DeiTForImageClassification": ("DeiTConfig", TRANSFORMER),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", TRANSFORMER),
    "DinatForImageClassification": (
        "DinatConfig",
        {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], **LOCAL},
    ),
    "Dinov2ForImageClassification": ("Dinov2Config", TRANSFORMER),
    "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersConfig", TRANSFORMER),
    "DonutSwinForImageClassification": ("DonutSwinConfig", WINDOWS),
    "EfficientNetForImageClassification": (
        "EfficientNetConfig",
        {
            "image_size": SIDE,
            "width_coefficient": 0.5,
            "depth_coefficient": 0.5,
            "hidden_dim": 640,
            "depthwise_padding": [],
        },
    ),
    "FocalNetForImageClassification": (
        "FocalNetConfig",
        {"image_size": SIDE, "embed_dim": 24, "depths": [1, 1, 2, 1], "hidden_sizes": [24, 48, 96, 192]},
    ),
    "HGNetV2ForImageClassification": (
        "HGNetV2Config",
        {
            "stem_channels": [3, 8, 16],
            "stage_in_channels": [16, 24, 32, 48],
            "stage_mid_channels": [8, 12, 16, 24],
            "stage_out_channels": [24, 32, 48, 64],
            "stage_num_blocks": [1, 1, 2, 1],
            "stage_numb_of_layers": [3, 3, 3, 3],
            "hidden_sizes": [24, 32, 48, 64],
        },
    ),
    "HieraForImageClassification": (
        "HieraConfig",
        {
            "image_size": [SIDE, SIDE],
            "embed_dim": 24,
            "depths": [1, 2, 2],
            "num_heads": [1, 2, 4],
            "num_query_pool": 2,
            "masked_unit_size": [4, 4],
            "query_stride": [2, 2],
        },
    ),
    "IJepaForImageClassification": ("IJepaConfig", TRANSFORMER),
    "ImageGPTForImageClassification": (
        "ImageGPTConfig",
        {"vocab_size": 17, "n_positions": SIDE, "n_embd": 48, "n_layer": 3, "n_head": 4},
    ),
    "LevitForImageClassification": ("LevitConfig", LEVIT),
    "LevitForImageClassificationWithTeacher": ("LevitConfig", LEVIT),
    "MetaClip2ForImageClassification": ("MetaClip2Config", TOWER),
    "MobileNetV1ForImageClassification": ("MobileNetV1Config", {"depth_multiplier": 0.25}),
    "MobileNetV2ForImageClassification": ("MobileNetV2Config", {"depth_multiplier": 0.35}),
    "MobileViTForImageClassification": (
        "MobileViTConfig",
        {
            "image_size": SIDE,
            "hidden_sizes": [48, 64, 80],
            "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 160],
            "num_attention_heads": 4,
        },
    ),
    "MobileViTV2ForImageClassification": (
        "MobileViTV2Config",
        {"image_size": SIDE, "width_multiplier": 0.5},
    ),
    "PerceiverForImageClassificationLearned": ("PerceiverConfig", PERCEIVER),
    "PerceiverForImageClassificationFourier": ("PerceiverConfig", PERCEIVER),
    "PerceiverForImageClassificationConvProcessing": ("PerceiverConfig", PERCEIVER),
    "PoolFormerForImageClassification": (
        "PoolFormerConfig",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
    ),
    "PPLCNetForImageClassification": ("PPLCNetConfig", {"scale": 0.5}),
    "PvtForImageClassification": (
        "PvtConfig",
        {"image_size": SIDE, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
        | {"num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [2, 2, 2, 2]},
    ),
    "PvtV2ForImageClassification": (
        "PvtV2Config",
        {"image_size": SIDE, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
        | {"num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [2, 2, 2, 2]},
    ),
    "RegNetForImageClassification": ("RegNetConfig", {**STAGES, "groups_width": 8}),
    "ResNetForImageClassification": ("ResNetConfig", STAGES),
    "SegformerForImageClassification": (
        "SegformerConfig",
        {"image_size": SIDE, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    ),
    "SiglipForImageClassification": ("SiglipConfig", TOWER),
    "SwiftFormerForImageClassification": (
        "SwiftFormerConfig",
        {"image_size": SIDE, "embed_dims": [16, 24, 32, 48], "depths": [2, 2, 2, 2]},
    ),
    "SwinForImageClassification": ("SwinConfig", WINDOWS),
    "Swinv2ForImageClassification": ("Swinv2Config", WINDOWS),
    "TextNetForImageClassification": ("TextNetConfig", {}),
    "TimmWrapperForImageClassification": ("TimmWrapperConfig", {"architecture": "resnet18"}),
    "ViTForImageClassification": ("ViTConfig", TRANSFORMER),
    "ViTMSNForImageClassification": ("ViTMSNConfig", TRANSFORMER),
}

LEFT_OUT = {
    "ShieldGemma2ForImageClassification": "it takes texts beside images",
    "Siglip2ForImageClassification": "it takes flattened patches and their places, not images",
    "DinatForImageClassification": "it needs the compiled package natten",
}


class Pixels(nn.Module):
    """ImageGPT takes colours by number, pixel after pixel: these are made of an image's brightness."""

    def __init__(self, network: nn.Module, colors: int, side: int):
        super().__init__()
        self.network, self.colors, self.side = network, colors, side

    def forward(self, images: Tensor) -> Tensor:
        small = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), self.side)
        return self.network((small * (self.colors - 1)).long().flatten(1)).logits


def build(name: str) -> nn.Module:
    """A network of random weights."""
    library = importlib.import_module("transformers")
    configuration, options = NETWORKS[name]
    config = getattr(library, configuration)(**options)
    config.num_labels = LABELS
    config.initializer_range = (
        0.1  # the usual 0.02 is for a thousand channels: of a few, nothing would be left
    )
    torch.manual_seed(0)
    network = getattr(library, name)(config)
    if name.startswith("ImageGPT"):
        side = int(config.n_positions**0.5)
        return Pixels(network, config.vocab_size - 1, side)
    return network


def names() -> list[str]:
    return [name for name in NETWORKS if name not in LEFT_OUT]
