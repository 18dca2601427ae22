"""The keys of well-known code → our names for the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """The keys of one project or library.

    Attributes
    ----------
    marker
        Which of its keys tell it from all others: a regular expression.
    said
        What a note says of it.
    rename
        Its weights by our names; what computes nothing is left out.
    variants
        How its authors' networks depart from ours, in order of likelihood, each as in names (`silu`, or
        `leaky_relu_0.1+bn_eps_1e-3`); `""` where they do not.
    """

    marker: str
    said: str
    rename: Callable[[Weights], Weights]
    variants: tuple[str, ...] = ("",)

    def fits(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether some weights are called so."""
        return any(re.search(self.marker, key) for key in weights)


@dataclass(frozen=True)
class Reading:
    """Weights by our names, and what is to be said of it."""

    weights: Weights
    notes: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("",)


def readings(weights: Mapping[str, Tensor]) -> Iterator[Reading]:
    """The weights as they are, then as ours would be called where the names are those of well-known code.

    Last come all layouts that fit, one after the other: some write `linear` and `downsample`.
    """
    yield Reading(dict(weights))
    known = [layout for layout in LAYOUTS if layout.fits(weights)]
    for layout in known:
        yield Reading(layout.rename(dict(weights)), (layout.said,), layout.variants)
    renamed, applied = dict(weights), []
    for layout in known:
        if layout.fits(renamed):
            renamed, applied = layout.rename(renamed), [*applied, layout]
    if len(applied) > 1:
        yield Reading(renamed, tuple(layout.said for layout in applied), applied[-1].variants)


def by_key(rename: Callable[[str], str]) -> Callable[[Weights], Weights]:
    """Rename weights one by one; those without a name, "", are left out."""
    return lambda weights: {new: value for key, value in weights.items() if (new := rename(key))}


def rewritten(*changes: tuple[str, str | Callable[[re.Match], str]]) -> Callable[[Weights], Weights]:
    """Rename weights by regular expressions and what stands for them, one after the other."""

    def rename(key: str) -> str:
        for pattern, new in changes:
            key = re.sub(pattern, new, key)
        return key

    return by_key(rename)


def _stage(first: int) -> Callable[[re.Match], str]:
    """A block of a stage by our name; ours count stages from 1, theirs from `first`."""
    return lambda match: f"layer{int(match[1]) - first + 1}.{match[2]}."


def _numbered_parts(names: Mapping[int, str]) -> Callable[[re.Match], str]:
    """Names that the numbered parts of a sequence have in a block of ours."""
    return lambda match: names.get(int(match[1]), match[0].rstrip(".")) + "."


def _wide_resnet(key: str) -> str:
    if key.startswith("sub_block1."):  # of TRADES' code, where it is never called
        return ""
    key = re.sub(r"^bn1\.", "bn2.", key)
    key = re.sub(r"^block(\d)\.layer\.(\d+)\.", r"layer\1.\2.", key)
    return key.replace("convShortcut", "shortcut")


def _preactivation(key: str) -> str:
    key = re.sub(r"^bn\.", "bn2.", key)
    return re.sub(r"^linear\.", "fc.", key).replace("shortcut.0.", "shortcut.")


def _cifar_resnet(key: str) -> str:
    return re.sub(r"^linear\.", "fc.", key)


def _old_torchvision(key: str) -> str:
    if key.startswith(("aux1.", "aux2.", "AuxLogits.")):
        return ""
    return re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key)


_DEEPMIND = (  # parts of Gowal's and Rebuffi's networks
    (r"\.batchnorm_0\.", ".bn1."),
    (r"\.batchnorm_1\.", ".bn2."),
    (r"\.conv_1\.", ".conv2."),
    (r"\.conv_0\.", ".conv1."),
    (r"^batchnorm\.", "bn2."),
    (r"^logits\.", "fc."),
)
_WEIAICUNZAI = "Keys are those of weiaicunzai's pre-activation ResNet; they were given our names."
_BIASED_PREACTIVATION = (
    (r"^pre\.0\.", "conv1."),
    (r"^pre\.1\.", "bn1."),
    (r"^stage(\d)\.(\d+)\.", _stage(1)),
    (
        r"residual\.(\d)\.",
        _numbered_parts({0: "bn1", 2: "conv1", 3: "bn2", 5: "conv2", 6: "bn3", 8: "conv3"}),
    ),
    (r"^linear\.", "fc."),
)


def _staged_vgg(weights: Weights) -> Weights:
    """features.conv2_1 → features.4, counting ReLUs and poolings as torchvision's VGG does."""
    places, at, stage = {}, 0, "1"
    for key in weights:
        found = re.match(r"features\.conv((\d+)_\d+)\.weight", key)
        if found:
            at += found[2] != stage
            places[found[1]], stage = at, found[2]
            at += 3
    heads = {"fc1": 0, "fc2": 3, "fc3": 6}

    def rename(key: str) -> str:
        key = re.sub(r"^features\.conv(\d+_\d+)\.", lambda found: f"features.{places[found[1]]}.", key)
        key = re.sub(r"^features\.bn(\d+_\d+)\.", lambda found: f"features.{places[found[1]] + 1}.", key)
        return re.sub(r"^classifier\.(fc[123])\.", lambda found: f"classifier.{heads[found[1]]}.", key)

    return by_key(rename)(weights)


def _four_linear(key: str) -> str:
    return re.sub(r"^fc([123])\.", lambda found: f"hidden.{2 * int(found[1]) - 2}.", key).replace(
        "fc4.", "classifier."
    )


def _dense_blocks(key: str) -> str:
    """pytorch-cifar100's DenseNet → torchvision's, one further block a stage."""
    key = re.sub(r"^conv1\.", "features.conv0.", key)
    key = re.sub(
        r"^features\.dense_block(?:_layer_)?(\d)\.bottle_neck_layer_(\d+)\.bottle_neck\.(\d)\.",
        lambda found: (
            f"features.denseblock{int(found[1]) + 1}.denselayer{int(found[2]) + 1}."
            f"{('norm1', '', 'conv1', 'norm2', '', 'conv2')[int(found[3])]}."
        ),
        key,
    )
    key = re.sub(
        r"^features\.transition_layer_(\d)\.down_sample\.([01])\.",
        lambda found: f"features.transition{int(found[1]) + 1}.{('norm', 'conv')[int(found[2])]}.",
        key,
    )
    return re.sub(r"^linear\.", "classifier.", key.replace("features.bn.", "features.norm5."))


def _transformers_resnet(key: str) -> str:
    parts = {"convolution": "conv", "normalization": "bn"}
    key = re.sub(
        r"^resnet\.embedder\.embedder\.(convolution|normalization)\.", lambda f: f"{parts[f[1]]}1.", key
    )
    key = re.sub(
        r"^resnet\.encoder\.stages\.(\d)\.layers\.", lambda f: f"layer{int(f[1]) + 1}.", key
    ).replace("shortcut.convolution.", "downsample.0.")
    key = key.replace("shortcut.normalization.", "downsample.1.").replace("classifier.1.", "fc.")
    return re.sub(
        r"\.layer\.(\d)\.(convolution|normalization)\.", lambda f: f".{parts[f[2]]}{int(f[1]) + 1}.", key
    )


def _mmpretrain(weights: Weights) -> Weights:
    rename = by_key(lambda key: re.sub(r"^head\.fc\.", "fc.", key.removeprefix("backbone.")))
    return rename(weights)


# Of a vision transformer in others' words: torchvision's name for each part. {} is the number of the layer.
_TRANSFORMER = {
    r"(?:vit\.embeddings\.|transformer\.embeddings\.)?cls_token$": "class_token",
    r"(?:vit|transformer)\.embeddings\.position_embeddings$|pos_embed$": "encoder.pos_embedding",
    r"vit\.embeddings\.patch_embeddings\.projection\.|patch_embed\.proj(?:ection)?\.": "conv_proj.",
    r"transformer\.embeddings\.patch_embeddings\.": "conv_proj.",
    r"(?:(?:vit|transformer)\.encoder\.layer|vit\.layers|blocks|layers)\.(\d+)\.": (
        "encoder.layers.encoder_layer_{}."
    ),
    r"vit\.layernorm\.|transformer\.encoder\.encoder_norm\.|norm\.|ln1\.": "encoder.ln.",
    r"classifier\.|head\.(?:layers\.head\.)?": "heads.head.",
}
_TRANSFORMER_LAYER = {
    r"layernorm_before\.|attention_norm\.|norm1\.|ln1\.": "ln_1.",
    r"layernorm_after\.|ffn_norm\.|norm2\.|ln2\.": "ln_2.",
    r"attn\.qkv\.": "self_attention.in_proj_",
    r"attention\.output\.dense\.|attention\.o_proj\.|attn\.(?:proj|out)\.": "self_attention.out_proj.",
    r"intermediate\.dense\.|(?:mlp|ffn)\.fc1\.|ffn\.layers\.0\.0\.": "mlp.0.",
    r"output\.dense\.|(?:mlp|ffn)\.fc2\.|ffn\.layers\.1\.": "mlp.3.",
}
_QUERY = r"^(.+?\.)((?:attention\.|attn\.)+)(query|q_proj)\.(weight|bias)$"


def _vision_transformer(weights: Weights) -> Weights:
    """Rename by `_TRANSFORMER`, with queries, keys and values joined as torch's attention holds them."""
    found = dict(weights)
    for key in weights:
        if part := re.match(_QUERY, key):
            layer, inner, name, kind = part.groups()
            others = ("key", "value") if name == "query" else ("k_proj", "v_proj")
            three = [f"{layer}{inner}{each}.{kind}" for each in (name, *others)]
            shapes = {weights[each].shape for each in three if each in weights}
            if len(shapes) == 1 and set(three) <= weights.keys():
                found[f"{layer}attn.qkv.{kind}"] = torch.cat([found.pop(each) for each in three])
    return {_named(key, _TRANSFORMER): value for key, value in found.items()}


# torchvision's names of a vision transformer's parts, in timm's words.
_TIMM_TRANSFORMER = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)


def _timm_transformer(weights: Weights) -> Weights:
    """Rename a vision transformer's parts as timm has them, which knows more sizes than torchvision."""
    return rewritten(*_TIMM_TRANSFORMER)(_vision_transformer(weights))


def _named(key: str, table: dict[str, str]) -> str:
    for pattern, name in table.items():
        if match := re.match(pattern, key):
            rest = key[match.end() :]
            if "{}" in name:
                return name.format(match[1]) + (_named(rest, _TRANSFORMER_LAYER) if rest else "")
            return name + rest
    return key


LAYOUTS = [
    Layout(
        r"^block1\.layer\.",
        "Keys are those of the WideResNet of TRADES and of the CKA paper; they were given our names.",
        by_key(_wide_resnet),
    ),
    Layout(
        r"^linear\.",
        "Keys are those of common CIFAR ResNets (linear for fc); they were given our names.",
        by_key(_cifar_resnet),
    ),
    Layout(
        r"^linear\.|shortcut\.0\.",
        "Keys are those of common pre-activation ResNets; they were given our names.",
        by_key(_preactivation),
    ),
    Layout(
        r"\.(norm|conv)\.[12]\.|^aux|^AuxLogits",
        "Keys are torchvision's, with older names or auxiliary classifiers; the latter were left out.",
        by_key(_old_torchvision),
    ),
    # those of robustness, too, whose pooling wants 32 pixels; by these names it is of any size
    Layout(
        r"^layer\d\.\d+\.shortcut\.1\.",
        "Keys are those of pytorch-cifar's ResNets; they were given torchvision's names.",
        rewritten((r"\.shortcut\.", ".downsample."), (r"^linear\.", "fc.")),
    ),
    # residual
    Layout(
        r"^layer4\.\d+\.shortcut\.1\.",
        "Keys are those of common CIFAR ResNets (shortcut, linear); they were given torchvision's names.",
        rewritten((r"\.shortcut\.", ".downsample."), (r"^linear\.", "fc.")),
    ),
    Layout(
        r"^layer\d\.\d+\.downsample\.1\.",
        "Keys are those of CIFAR ResNets with downsample for shortcut; they were given our names.",
        rewritten((r"\.downsample\.", ".shortcut.")),
    ),
    Layout(
        r"^layer\d\.\d+\.downsample\.0\.",
        "Keys are those of pre-activation ResNets with downsample for shortcut; they were given our names.",
        rewritten((r"^bn\.", "bn2."), (r"\.downsample\.0\.", ".shortcut.")),
        ("raw_shortcut", ""),
    ),
    Layout(
        r"^layer\.\d\.block\.\d+\.batchnorm_0\.",
        "Keys are those of the WideResNet of Gowal et al. (2020); they were given our names.",
        rewritten((r"^init_conv\.", "conv1."), (r"^layer\.(\d)\.block\.(\d+)\.", _stage(0)), *_DEEPMIND),
        ("silu+same_padding", "same_padding"),
    ),
    Layout(
        r"^layer_\d\.\d+\.batchnorm_0\.",
        "Keys are those of the PreActResNet of Rebuffi et al. (2021); they were given our names.",
        rewritten(
            (r"^conv_2d\.", "conv1."),
            (r"^layer_(\d)\.(\d+)\.", _stage(0)),
            (r"\.conv_2d_(\d)\.", r".conv\1."),
            (r"\.shortcut\.", ".shortcut.1."),
            *_DEEPMIND,
        ),
        ("silu", ""),
    ),
    Layout(
        r"^conv2_x\.",
        "Keys are those of weiaicunzai's ResNet; they were given our names.",
        rewritten(
            (r"^conv1\.0\.", "conv1."),
            (r"^conv1\.1\.", "bn1."),
            (r"^conv(\d)_x\.(\d+)\.", _stage(2)),
            (
                r"residual_function\.(\d)\.",
                _numbered_parts({0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}),
            ),
            (r"\.shortcut\.", ".downsample."),
        ),
    ),
    Layout(
        r"^stage\d\.\d+\.residual\.8\.",
        _WEIAICUNZAI,
        rewritten(*_BIASED_PREACTIVATION),
        ("raw_shortcut+first_stride", "raw_shortcut", ""),
    ),
    Layout(
        r"^stage\d\.\d+\.residual\.5\.",
        _WEIAICUNZAI,
        rewritten(*_BIASED_PREACTIVATION),
        ("raw_shortcut", ""),
    ),
    Layout(
        r"^conv\d\.\d+\.residual\.6\.",
        "Keys are those of weiaicunzai's WideResNet; they were given our names.",
        rewritten(
            (r"^init_conv\.", "conv1."),
            (r"^conv([234])\.(\d+)\.", _stage(2)),
            (r"residual\.(\d)\.", _numbered_parts({0: "bn1", 2: "conv1", 3: "bn2", 6: "conv2"})),
            (r"\.shortcut\.0\.", ".shortcut."),
            (r"^bn\.", "bn2."),
            (r"^linear\.", "fc."),
        ),
        ("raw_shortcut", ""),
    ),
    Layout(
        r"^layer2\.0\.shortcut\.0\.bias",
        "Keys are those of meliketoy's WideResNet; they were given our names.",
        rewritten((r"^bn1\.", "bn2."), (r"^linear\.", "fc."), (r"\.shortcut\.0\.", ".shortcut.")),
        ("raw_shortcut+second_stride", "raw_shortcut", ""),
    ),
    Layout(
        r"^7\.bias$",
        "Keys are those of the MNIST network of fast adversarial training; they were given our names.",
        rewritten((r"^0\.", "conv1."), (r"^2\.", "conv2."), (r"^5\.", "fc1."), (r"^7\.", "fc2.")),
    ),
    Layout(
        r"^layer4\.0\.shortcut\.1\.",
        "Keys are those of pytorch-cifar's ResNet; they were given names for images of any size.",
        rewritten((r"^linear\.", "fc."), (r"\.shortcut\.", ".downsample.")),
    ),
    # others
    Layout(
        r"^features\.conv1_1\.",
        "Keys are those of robust-stitching's VGG; they were given torchvision's names.",
        _staged_vgg,
    ),
    Layout(
        r"^fc4\.",
        "Keys are those of robust-stitching's perceptron; they were given our names.",
        by_key(_four_linear),
    ),
    Layout(
        r"\.bottle_neck_layer_0\.",
        "Keys are those of pytorch-cifar100's DenseNet, without ReLU between its blocks; they were given "
        "torchvision's names.",
        by_key(_dense_blocks),
        ("no_transition_relu", ""),
    ),
    Layout(
        r"^resnet\.embedder\.",
        "Keys are those of transformers' ResNet; they were given torchvision's names.",
        by_key(_transformers_resnet),
    ),
    Layout(
        r"^vit\.embeddings\.",
        "Keys are those of transformers' vision transformer, whose LayerNorms have an eps of 1e-12; they "
        "were given torchvision's names.",
        _vision_transformer,
        ("ln_eps_1e-12", ""),
    ),
    Layout(
        r"^vit\.embeddings\.",
        "Keys are those of transformers' vision transformer, whose LayerNorms have an eps of 1e-12; they "
        "were given timm's names.",
        _timm_transformer,
        ("ln_eps_1e-12", ""),
    ),
    Layout(
        r"^transformer\.embeddings\.",
        "Keys are those of ViT-pytorch and of pytorch-cifar-models' vision transformer; they were given "
        "torchvision's names.",
        _vision_transformer,
    ),
    Layout(
        r"^blocks\.0\.attn\.qkv\.",
        "Keys are those of timm's vision transformer; they were given torchvision's names.",
        _vision_transformer,
    ),
    Layout(
        r"^backbone\.(conv1|cls_token|stem)",
        "Keys are those of mmpretrain; they were given torchvision's names.",
        lambda weights: _vision_transformer(_mmpretrain(weights)),
    ),
]
