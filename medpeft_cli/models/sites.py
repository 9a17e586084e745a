"""Where a method may sit: norm layers, transformer blocks, operators, residual convolutions, the classifier.

Places are found by module type and by the names timm or diffusers gives to a block's children, never by a bare
substring. Diffusers' classes are known by their names, so that classification does not import it.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import torch
from timm.layers import (
    Conv2dSame,
    ConvNormAct,
    FrozenBatchNormAct2d,
    Linear,
    RmsNorm,
    RmsNorm2d,
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medpeft_cli.errors import RecipeError

NORM_TYPES = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, RmsNorm, RmsNorm2d, FrozenBatchNormAct2d)

# convolutions that standardise their weight on use: what is folded into the stored weight is standardised too
STANDARDISED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)

# timm's blocks that add their input to what their convolutions make of it
RESIDUAL_BLOCKS = frozenset({
    "BasicBlock", "Bottleneck", "PreActBasic", "PreActBottleneck", "BottleneckBlock", "DarkBlock", "EdgeBlock",
    "SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck", "SEResNetBlock", "ResNestBottleneck",
    "SelectiveKernelBasic", "SelectiveKernelBottleneck", "NormFreeBlock", "InvertedResidual",
    "UniversalInvertedResidual", "DepthwiseSeparableConv", "EdgeResidual", "ConvNeXtBlock",
})  # fmt: skip

UNET_BLOCKS = frozenset(("BasicTransformerBlock", "ResnetBlock2D"))

# timm's names of what lies between the stem and the classifier
STAGE = re.compile(r"layer\d+|(stages|blocks|layers)\.\d+|s\d+|features\.denseblock\d+")
STAGES = re.compile(r"(layer\d+|stages|blocks|layers|s\d+|features\.(denseblock|transition)\d+)\..+")
SQUEEZE_EXCITE = re.compile(r"\.(se|attn|attn_last)\.")
ATTENTION_PROJECTIONS = frozenset(("qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj"))
UNET_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of every attention of a U-Net


def family_of(model: nn.Module) -> Literal["cnn", "vit"]:
    """Return "vit" for a network of attention blocks (ViT, Swin), "cnn" for one of convolutions.

    Raises:
        RecipeError: if it is neither.
    """
    if transformer_blocks(model):
        return "vit"
    if sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1:
        return "cnn"
    raise RecipeError(
        f"backbone {backbone_name(model)!r}: neither attention blocks nor convolutions found, wanted a timm CNN or ViT"
    )


def backbone_name(model: nn.Module) -> str:
    """Return timm's name of the architecture, or the class's where there is none."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(model).__name__


def example_inputs(model: nn.Module, family: str, size: int, count: int = 1) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the arguments of one forward pass on noise, always the same, in the model's type and on its device.

    Args:
        model: timm model, or diffusers' UNet2DConditionModel.
        family: "cnn", "vit" or "unet".
        size: side of the square image, pixels; of a U-Net, of its latents.
        count: B, images.

    Returns:
        Positional and keyword arguments. Images (B, 3, S, S); for a U-Net latents (B, 4, S, S), timesteps (B,), prompt
        (B, 77, D), and for XL the pooled prompt (B, P) and the six numbers of size and crop (B, 6).
    """
    generator, like = torch.Generator().manual_seed(0), next(model.parameters())

    def noise(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(like.device, like.dtype)

    if family != "unet":
        return [noise(3, size, size)], {}
    config = model.config
    steps = torch.randint(0, 1000, (count,), generator=generator).to(like.device)
    inputs = [noise(config.in_channels, size, size), steps, noise(77, config.cross_attention_dim)]
    options: dict[str, Any] = {"return_dict": False}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        options["added_cond_kwargs"] = {"text_embeds": noise(pooled), "time_ids": noise(6)}
    return inputs, options


def head_names(model: nn.Module) -> list[str]:
    """Return the module names of the classifier (two for a distilled DeiT), as `model.get_classifier()` tells.

    A U-Net has none.

    Raises:
        RecipeError: if a classification backbone has no classifier with parameters.
    """
    if not hasattr(model, "get_classifier"):
        return []
    classifier = model.get_classifier()
    heads = classifier if isinstance(classifier, tuple) else (classifier,)
    names = [
        name
        for name, module in model.named_modules()
        if any(module is head for head in heads) and any(True for _ in module.parameters())
    ]
    if len(names) != len(heads):
        raise RecipeError(
            f"backbone {backbone_name(model)!r}: no classifier to train, wanted num_classes of at least 1"
        )
    return names


def in_modules(name: str, modules: list[str]) -> bool:
    """Tell whether `name` is one of `modules` or lies inside one."""
    return any(name == module or name.startswith(module + ".") for module in modules)


def batch_norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every BatchNorm that keeps running statistics."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def statistics(name: str, norm: nn.Module) -> list[str]:
    """Return the state-dict names of a BatchNorm's running mean, running variance and batch count."""
    return [f"{name}.{buffer}" for buffer, _ in norm.named_buffers(recurse=False)]


def transformer_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks of attention and MLP, each with `attn`, `norm2` and `mlp` as timm names them."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if all(isinstance(getattr(module, child, None), nn.Module) for child in ("attn", "norm2", "mlp"))
    ]


def stages(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the stages of a CNN, first to last: `layer1` to `layer4` of a ResNet."""
    return [(name, module) for name, module in model.named_modules() if STAGE.fullmatch(name)]


def last_block(name: str, stage: nn.Module) -> str:
    """Return the name of the last block in a stage of this name, however many sequences it lies in."""
    member, module = list(stage.named_children())[-1]
    inside = f"{name}.{member}"
    return last_block(inside, module) if isinstance(module, nn.Sequential) else inside


def attentions(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return diffusers' `Attention` modules: self (attn1) and cross (attn2) in each transformer block of a U-Net."""
    return [(name, module) for name, module in model.named_modules() if type(module).__name__ == "Attention"]


def unet_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return diffusers' transformer blocks, each with `attn1`, `attn2` and `ff`."""
    return [
        (name, module) for name, module in model.named_modules() if type(module).__name__ == "BasicTransformerBlock"
    ]


def transformer_stacks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what diffusers keeps under `attentions`: norm, projections in and out, and the blocks between them."""
    return [(name, module) for name, module in model.named_modules() if type(module).__name__ == "Transformer2DModel"]


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Return what a network is mostly made of: transformer blocks, residual blocks, both kinds of a U-Net; none in another."""
    transformers = {name for name, _ in transformer_blocks(model)}
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        is_block = name in transformers or type(module).__name__ in RESIDUAL_BLOCKS | UNET_BLOCKS
        if is_block and not in_modules(name, list(found)):
            found[name] = module
    return list(found.values())


def operators(model: nn.Module, family: str) -> list[tuple[str, nn.Module]]:
    """Return the operators that SSF scales: each Linear, Conv2d and norm of a ViT; each norm of a CNN.

    The classifier is left out. On a ViT these are the patch embedding, norm1, qkv, proj, norm2, fc1, fc2 and the
    final norm (Lian et al. 2022, fig. 2).
    """
    heads = head_names(model)
    types = (nn.Linear, nn.Conv2d, *NORM_TYPES) if family == "vit" else NORM_TYPES
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, types) and getattr(module, "weight", None) is not None and not in_modules(name, heads)
    ]


def weighted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every Linear, Conv2d and norm layer that has a weight."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, *NORM_TYPES)) and getattr(module, "weight", None) is not None
    ]


def channel_axis(module: nn.Module) -> int:
    """Return the axis of the channels in a layer's output: 1 for maps (B, C, H, W), -1 for tokens (..., C)."""
    maps = isinstance(module, (nn.Conv2d, _BatchNorm, nn.GroupNorm, FrozenBatchNormAct2d))
    return 1 if maps or "2d" in type(module).__name__ else -1


def block_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Yield the direct convolutions of every residual block: no stem, no downsampling shortcut, no squeeze-excite."""
    for name, block in model.named_modules():
        if type(block).__name__ not in RESIDUAL_BLOCKS:
            continue
        for child_name, child in block.named_children():
            if isinstance(child, nn.Conv2d):
                yield f"{name}.{child_name}", child
            elif isinstance(child, ConvNormAct) and child_name != "downsample":  # RegNet
                yield f"{name}.{child_name}.conv", child.conv


def pads_same(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution pads as TensorFlow does: by the input's size, and less before than after."""
    return isinstance(conv, Conv2dSame) or getattr(conv, "same_pad", False)


def adaptable_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every Linear and Conv2d but the classifier.

    Left out are layers that compute otherwise than torch's own (standardised weights, padding by the input's size):
    HF peft's layers would compute with the stored weight and padding.
    """
    heads = head_names(model)
    own = (nn.Linear.forward, nn.Conv2d.forward, Linear.forward)
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and type(module).forward in own and not in_modules(name, heads)
    ]


def default_targets(model: nn.Module, family: str) -> list[tuple[str, nn.Module]]:
    """Return what low-rank methods adapt unless told otherwise.

    ViT: the query, key and value projections (timm's fused `qkv`). CNN: every convolution and Linear of the stages,
    downsampling included, but not the stem, grouped or depthwise convolutions, nor squeeze-excite. U-Net: query, key,
    value and output of every attention.
    """
    if family == "unet":
        targets = {f"{name}.{projection}" for name, _ in attentions(model) for projection in UNET_PROJECTIONS}
        return [(name, module) for name, module in adaptable_layers(model) if name in targets]
    if family == "vit":
        return [
            (name, module)
            for name, module in adaptable_layers(model)
            if name.rpartition(".")[2] in ATTENTION_PROJECTIONS and ".attn." in f".{name}"
        ]
    return [
        (name, module)
        for name, module in adaptable_layers(model)
        if STAGES.fullmatch(name) and not SQUEEZE_EXCITE.search(name) and getattr(module, "groups", 1) == 1
    ]
