"""Methods of HF peft on timm models and U-Nets: which layers, how they are injected, saved and merged. See `tuners.py`."""

import re
import warnings
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

from medpeft_cli import compat  # noqa: F401  must come before peft

# isort: split
import peft
import torch
from peft.utils.save_and_load import get_peft_model_state_dict
from torch import Tensor, nn

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.adalora import RankSchedule
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.methods.inject import Injected, trained_names
from medpeft_cli.methods.schedule import Schedule
from medpeft_cli.methods.state import LORA_FILE
from medpeft_cli.methods.tuners import TUNER_OF, Tuner, TunerConfig
from medpeft_cli.models import sites

PERMUTATION_LIMIT = 4 * 2**30  # bytes of BOFT's matrices, float32

torch.sparse.check_sparse_tensor_invariants.disable()  # torch's default; unless said, it warns (SHiRA, FRoD)


def inject(model: nn.Module, family: str, config: TunerConfig) -> Injected:
    """Wrap the target layers with peft's, in place. The classifier is never among them.

    Raises:
        RecipeError: if no target is found, peft refuses one, or nothing would be trained.
    """
    tuner = TUNER_OF[type(config)]
    name = tuner.method.name
    targets, unmatched = find_targets(model, family, config, tuner)
    try:
        with warnings.catch_warnings():
            # BOFT's normal case, and what merging says of BEFT if it is asked for
            warnings.filterwarnings("ignore", message=".*(CUDA extension|boft_n_butterfly_factor|has no bias term)")
            warnings.filterwarnings(
                "ignore", message="Invalid `oft_block_size`"
            )  # told in our words, see `assembly.describe`
            wrapper = peft.get_peft_model(model, _peft_config(tuner, config, targets))
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"method {name!r}: HF peft refuses {targets[0]} (or another target): {error}",
            "name the layers it can adapt with method.targets, or choose another rank or block size",
        ) from error
    if not trained_names(model):
        raise RecipeError(
            f"method {name!r}: HF peft trains nothing in {targets[0]} and the other {len(targets) - 1} targets"
        )
    schedule = RankSchedule(wrapper, config) if tuner.config_class == "AdaLoraConfig" else Schedule()
    adjusted = _adjusted_blocks(model, targets, config) if tuner.unit_kernels else {}
    return Injected(trained_names(model), targets, unmatched, adjusted, peft=wrapper, schedule=schedule)


def find_targets(model: nn.Module, family: str, config: TunerConfig, tuner: Tuner) -> tuple[list[str], list[str]]:
    """Return the names of the layers to adapt, and the listed targets that name none.

    Raises:
        RecipeError: if there is no layer, or one that the method is known to compute wrongly on.
    """
    name = tuner.method.name
    layers = dict(sites.adaptable_layers(model))
    unmatched: list[str] = []
    if config.targets is None:
        found = [
            target
            for target, layer in sites.default_targets(model, family)
            if not (tuner.unit_kernels and _wide(layer))
        ]
    elif isinstance(config.targets, str):
        found = [layer for layer in layers if re.fullmatch(config.targets, layer)]
        unmatched = [] if found else [config.targets]
    else:
        hits = {target: [layer for layer in layers if f".{layer}".endswith(f".{target}")] for target in config.targets}
        unmatched = [target for target, matches in hits.items() if not matches]
        found = [layer for layer in layers if any(layer in matches for matches in hits.values())]
    if not found:
        limit = f"; {tuner.unit_kernels}" if tuner.unit_kernels else ""
        wanted = f"targets {config.targets!r}" if config.targets else "its default targets"
        raise RecipeError(
            f"method {name!r}: {wanted} match no plain Linear or Conv2d of backbone {sites.backbone_name(model)!r}{limit}",
            f"set method.targets; layers are named like {', '.join(list(layers)[1:4])}",
        )
    if tuner.unit_kernels:
        _refuse_for_oft(tuner, config, {layer: layers[layer] for layer in found})
    if tuner.decomposes:
        _refuse_more_than_all(config, {layer: layers[layer] for layer in found})
    if tuner.permutes:
        _refuse_huge_permutations(name, [layers[layer] for layer in found])
    if tuner.divides_by_norm:
        _refuse_zero_outputs(name, {layer: layers[layer] for layer in found})
    return found, unmatched


def _refuse_zero_outputs(name: str, layers: dict[str, nn.Module]) -> None:
    zero = [layer for layer, module in layers.items() if not module.weight.is_meta and _has_zero_output(module.weight)]
    if zero:
        raise RecipeError(
            f"method {name!r}: {len(zero)} targets have outputs whose weights are all zero ({zero[0]}, …); "
            "it divides by their norm, and the result is not a number",
            "name other layers with method.targets, or take method lora",
        )


def _refuse_huge_permutations(name: str, layers: list[nn.Module]) -> None:
    size = sum(4 * layer.weight[0].numel() ** 2 for layer in layers)
    if size > PERMUTATION_LIMIT:
        raise RecipeError(
            f"method {name!r}: HF peft keeps a matrix of (inputs × kernel)² numbers for each layer, here "
            f"{size / 2**30:.0f} GiB",
            "leave out method.targets to adapt attention only, or name fewer convolutions",
        )


def _refuse_more_than_all(config: TunerConfig, layers: dict[str, nn.Module]) -> None:
    """Refuse a rank above that of a weight: peft would take fewer directions and scale them by the rank asked for."""
    for layer, module in layers.items():
        if config.rank > (most := min(module.weight.shape[:2])):
            raise RecipeError(
                f"method.rank: {config.rank}, wanted at most {most}, the rank of its decomposition of {layer}"
            )


def _adjusted_blocks(model: nn.Module, targets: list[str], config: TunerConfig) -> dict[str, int]:
    """Return the block sizes that peft took where the recipe's does not divide a layer's inputs."""
    blocks = {target: model.get_submodule(target).oft_block_size["default"] for target in targets}
    return {target: size for target, size in blocks.items() if size != config.block_size}


def _has_zero_output(weight: Tensor) -> bool:
    return bool((weight.detach().flatten(1).abs().amax(dim=1) == 0).any())


def _refuse_for_oft(tuner: Tuner, config: TunerConfig, layers: dict[str, nn.Module]) -> None:
    wide = [layer for layer in layers if _wide(layers[layer])]
    if wide:
        raise RecipeError(
            f"method {tuner.method.name!r}: {wide[0]} has a kernel of {layers[wide[0]].kernel_size}, wanted 1×1: "
            f"{tuner.unit_kernels}",
            "leave out method.targets to adapt the 1×1 convolutions only",
        )
    narrow = [layer for layer in layers if layers[layer].weight.shape[1] < config.block_size]
    if narrow:
        inputs = layers[narrow[0]].weight.shape[1]
        raise RecipeError(f"method.block_size: {config.block_size}, wanted at most the {inputs} inputs of {narrow[0]}")


def adapter_tensors(adapted: Adapted) -> dict[str, Tensor]:
    """Return peft's own tensors of the adapter, not copies, by the key they have in peft's file."""
    return get_peft_model_state_dict(adapted.injected.peft, save_embedding_layers=False)


def config_text(adapted: Adapted, backbone: str) -> str:
    """Return adapter_config.json as peft writes it, with the classifier as a module to save."""
    config = deepcopy(adapted.injected.peft.peft_config["default"])
    config.modules_to_save = sorted({name.rpartition(".")[0] for name in adapted.head_names}) or None
    config.base_model_name_or_path, config.inference_mode = backbone, True
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return Path(folder, "adapter_config.json").read_text()


def lora_file(adapted: Adapted) -> bytes | None:
    """Return what diffusers' `load_lora_weights` reads, for a U-Net; None if it does not know the method.

    It knows increments of the weights as they are: LoRA, rsLoRA, DoRA, not PiSSA and OLoRA, which change the weights.
    """
    config = adapted.injected.peft.peft_config["default"]
    if config.peft_type != "LORA" or config.init_lora_weights is not True:
        return None
    from diffusers import StableDiffusionPipeline

    layers = {name.removeprefix("base_model.model."): tensor for name, tensor in adapter_tensors(adapted).items()}
    facts = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    with TemporaryDirectory() as folder:
        StableDiffusionPipeline.save_lora_weights(
            folder, unet_lora_layers=layers, unet_lora_adapter_metadata=facts, weight_name=LORA_FILE
        )
        return Path(folder, LORA_FILE).read_bytes()


def merge(wrapper: "peft.PeftModel", name: str) -> nn.Module:
    """Fold peft's layers into the weights and return the plain model.

    Raises:
        RecipeError: if peft cannot, for instance because a layer has no bias to take the method's.
    """
    try:
        return wrapper.merge_and_unload()
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError) as error:
        raise RecipeError(f"method {name!r} cannot be merged here: {error}") from error


def _peft_config(tuner: Tuner, config: TunerConfig, targets: list[str]) -> "peft.PeftConfig":
    arguments = {peft_name: getattr(config, name) for name, peft_name in tuner.options.items()} | dict(tuner.fixed)
    if tuner.config_class == "AdaLoraConfig":
        arguments |= {"tinit": 0, "tfinal": 0, "total_step": 1}  # known when training starts, see adalora.Schedule
    if tuner.seed is not None:
        # from torch's generator, as initial values are; on the CPU also when the model is on the meta device
        arguments[tuner.seed] = int(torch.randint(2**31, (), device="cpu"))
    if tuner.input_side is not None:
        # peft wants a pattern even if nothing matches it
        arguments["feedforward_modules"] = _pattern([name for name in targets if re.fullmatch(tuner.input_side, name)])
    return getattr(peft, tuner.config_class)(target_modules=_pattern(targets), **arguments)


def _pattern(names: list[str]) -> str:
    """Return a regular expression of exactly these names: peft's list would match endings too."""
    return "|".join(re.escape(name) for name in names) or r"(?!)"


def _wide(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
