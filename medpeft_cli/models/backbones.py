"""Build a pre-trained backbone by name, with the data configuration that belongs to its weights."""

import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medpeft_cli import compat  # noqa: F401  (before timm)

# isort: split

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torch import Tensor, nn

from medpeft_cli.data.images import InputSpec
from medpeft_cli.demo.networks import NETWORKS, load_bundled
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.methods.method import Family
from medpeft_cli.models import sites
from medpeft_cli.recipe.schema import Backbone
from medpeft_cli.registry import nearest

OPTION_ERRORS = (TypeError, AssertionError, ArithmeticError, AttributeError)  # of arguments that a network cannot use
HEAD_INIT_STD = 0.01  # spread of a new classifier's weights; its bias starts at zero


@dataclass(frozen=True)
class Built:
    """A backbone with a new head for K classes, and what has to be known of it."""

    model: nn.Module
    family: Family
    input: InputSpec
    title: str
    weights_source: str
    weights_sha256: str


def build_backbone(spec: Backbone, num_classes: int, seed: int) -> Built:
    """Build the backbone of a recipe with a freshly initialised classifier.

    Args:
        spec: name, weights and overrides, as in the recipe.
        num_classes: K, outputs of the classifier.
        seed: the run's seed; it decides the classifier's (and with `weights: random` the backbone's) initial values.

    Raises:
        RecipeError: for an unknown name or options that the network does not take.
        DataError: if the weights are missing, damaged, unsafe or of another network.
    """
    torch.manual_seed(seed_of(seed, "backbone"))
    model = build_trunk(spec)
    sha256 = state_sha256(model)
    model.reset_classifier(num_classes)
    _initialise_head(model, seed)
    read = input_spec(model, spec)
    if spec.options:
        _try_forward(model, read.size, spec)
    return Built(model, sites.family_of(model), read, spec.name.split("/")[-1], spec.weights, sha256)


def build_trunk(spec: Backbone) -> nn.Module:
    """Build a bundled or timm network without a classifier, with the weights that the recipe names.

    Args:
        spec: name, weights and options, as in the recipe.

    Raises:
        RecipeError: for an unknown name or options that the network does not take.
        DataError: if the weights are missing, damaged, unsafe or of another network.
    """
    model = _create(spec)
    if spec.name in NETWORKS and spec.weights == "pretrained":
        load_bundled(model, spec.name)
    if spec.weights not in ("pretrained", "random"):
        load_local(model, Path(spec.weights))
    return model


def state_sha256(model: nn.Module) -> str:
    """Return the SHA-256 over names, shapes and bytes of every tensor of a model, in state-dict order."""
    return tensors_sha256(model.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _create(spec: Backbone) -> nn.Module:
    """Create a bundled network with random weights, or a timm model with those the recipe names, without a classifier."""
    architecture = spec.name.split(".")[0]
    bundled = spec.name in NETWORKS
    from_hub = spec.name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not bundled and not from_hub and not timm.is_model(architecture):
        guess = nearest(architecture, timm.list_models())
        hint = f"did you mean {guess!r}? " if guess else ""
        raise RecipeError(
            f"backbone.name: timm has no model {architecture!r}", hint + "`medpeft list backbones TEXT` searches"
        )
    pretrained = spec.weights == "pretrained" and not bundled
    size = {} if spec.input.size is None else {"img_size": spec.input.size}
    try:
        if bundled:
            return NETWORKS[spec.name](num_classes=0, **spec.options)
        try:
            return timm.create_model(spec.name, pretrained=pretrained, num_classes=0, **spec.options, **size)
        except TypeError:
            if not size:
                raise
            # a CNN reads any size and takes no img_size
            return timm.create_model(spec.name, pretrained=pretrained, num_classes=0, **spec.options)
    except OPTION_ERRORS as error:
        raise RecipeError(f"backbone.options: {architecture} does not take them: {first_line(error)}") from error
    except Exception as error:
        if not pretrained:
            raise RecipeError(f"backbone.name: {spec.name!r} cannot be built: {first_line(error)}") from error
        raise DataError(
            f"backbone.name: the pre-trained weights of {spec.name!r} cannot be loaded: {first_line(error)}",
            "without a network, fetch them once on a machine that has one (same HF_HOME), "
            "or give a local file: --set backbone.weights=FILE.safetensors; `weights: random` trains from scratch",
        ) from error


def _try_forward(model: nn.Module, size: int, spec: Backbone) -> None:
    """Raise RecipeError for options that were accepted and cannot be computed with, such as drop_rate: x."""
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    except OPTION_ERRORS as error:
        raise RecipeError(f"backbone.options: {spec.name} does not compute with them: {first_line(error)}") from error
    model.train()


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a local weights file, never executing anything from it.

    Args:
        path: a .safetensors file, or a .pth/.pt/.bin file of tensors, plain or under `state_dict`, `model` or `teacher`.

    Raises:
        DataError: if it is missing, damaged, or would need code from a pickle to load.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such weights file", "backbone.weights: pretrained, random, or a .safetensors or .pth file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise DataError(f"{path}: not a readable safetensors file: {first_line(error)}", "download it again") from error
    except Exception as error:
        raise DataError(
            f"{path}: refused: it does not load as plain tensors (weights_only): {first_line(error)}",
            "a pickle can run code; convert the weights to .safetensors on a machine where you trust them",
        ) from error
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path}: not a state dict: wanted a mapping of names to tensors", "save model.state_dict()")
    return {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in content.items()}


def load_local(model: nn.Module, path: Path) -> None:
    """Load a local file into a headless model; every tensor of the backbone must be in it."""
    tensors = read_weights(path)
    # timm keeps each architecture's conversion from foreign checkpoints beside the model class
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            tensors = convert(tensors, model) if len(inspect.signature(convert).parameters) > 1 else convert(tensors)
        except (KeyError, RuntimeError, AttributeError) as error:
            raise DataError(
                f"{path}: weights of another network: no {first_line(error)}", "check backbone.name"
            ) from error
    classifier = model.pretrained_cfg.get("classifier", "head") if hasattr(model, "pretrained_cfg") else "head"
    classifiers = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    try:
        result = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise DataError(
            f"{path}: weights of another network: {str(error).splitlines()[-1].strip()}", "check backbone.name"
        ) from error
    strange = [name for name in result.unexpected_keys if not name.startswith(classifiers)]
    if result.missing_keys or strange:
        first = ", ".join((result.missing_keys + strange)[:3])
        raise DataError(
            f"{path}: weights of another network: {len(result.missing_keys)} tensors missing, {len(strange)} unknown ({first}, …)",
            "check backbone.name and backbone.options",
        )


def _initialise_head(model: nn.Module, seed: int) -> None:
    """Give the classifier small normal weights and a zero bias, whatever the architecture's own rule."""
    generator = torch.Generator().manual_seed(seed_of(seed, "head"))
    for head in sites.head_names(model):
        for name, parameter in model.get_submodule(head).named_parameters():
            with torch.no_grad():
                if name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * HEAD_INIT_STD)


def input_spec(model: nn.Module, spec: Backbone) -> InputSpec:
    """Return the data configuration of the weights, with the recipe's overrides."""
    config = resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    own = spec.input
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None)  # None: it reads any size
    size = own.size or (fixed[0] if fixed else config["input_size"][-1])
    if fixed and size != fixed[0]:
        raise RecipeError(
            f"backbone.input.size: {spec.name!r} was built for {fixed[0]} px, got {size}",
            "set backbone.input.size alone, without backbone.options.img_size; demo_vit reads 64 px only",
        )
    return InputSpec(
        size=size,
        mean=tuple(own.mean or config["mean"]),
        std=tuple(own.std or config["std"]),
        interpolation=own.interpolation or config["interpolation"],
        crop_pct=own.crop_pct or config["crop_pct"],
    )
