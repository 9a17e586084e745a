"""The delta: all tensors that differ from the pre-trained backbone. Take it, put it back, save it, read it.

Keys are those of the adapter file: the model's own state-dict names for our methods, HF peft's names
(`base_model.model.…`) for methods that come from HF peft.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medpeft_cli.errors import DataError
from medpeft_cli.files import atomic_path, write_json, write_text
from medpeft_cli.methods.adapt import Adapted

FORMAT = "medpeft"
FORMAT_VERSION = 1
CONFIG_FILE, TENSOR_FILE, INFO_FILE = "adapter_config.json", "adapter_model.safetensors", "medpeft.json"
LORA_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name for what `pipe.load_lora_weights` reads


def delta_names(adapted: Adapted) -> list[str]:
    """Return the keys of the delta."""
    return list(_live(adapted))


def get_delta(adapted: Adapted) -> dict[str, Tensor]:
    """Return a copy of the delta on the CPU: what the method trains or needs to be rebuilt, head, moving buffers."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _live(adapted).items()}


def set_delta(adapted: Adapted, tensors: dict[str, Tensor]) -> None:
    """Copy a delta into the adapted model, in place.

    Raises:
        DataError: if a tensor is missing, unexpected or of another shape; the model is then left as it was.
    """
    live = _live(adapted)
    missing, unexpected = sorted(live.keys() - tensors.keys()), sorted(tensors.keys() - live.keys())
    problems = [f"{len(missing)} missing ({missing[0]}, …)"] if missing else []
    problems += [f"{len(unexpected)} unexpected ({unexpected[0]}, …)"] if unexpected else []
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, wanted {tuple(tensor.shape)}"
        for name, tensor in live.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise DataError(
            f"adapter tensors do not fit method {adapted.method.name!r} on this backbone: {'; '.join(problems[:3])}",
            "the adapter belongs to another method, configuration, backbone or number of classes",
        )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(tensors[name])


def save_adapter(adapted: Adapted, folder: Path, info: dict[str, Any]) -> None:
    """Write the delta as a folder that rebuilds the model from its backbone.

    Methods from HF peft are written in HF's own format, so that `peft.PeftModel.from_pretrained` opens the folder
    over the plain timm model or U-Net, and LoRA and DoRA of a U-Net a second time as diffusers has them; our own
    methods as adapter_config.json and adapter_model.safetensors. Each file replaces its predecessor whole.

    Args:
        adapted: the trained model.
        folder: made if missing.
        info: anything JSON can hold, kept in medpeft.json; its "backbone" or "pipeline" has the base model's "name".

    Raises:
        RunError: if the folder cannot be written or the disk is full.
    """
    if adapted.injected.peft is None:
        config = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "method": adapted.method.name,
            "config": adapted.config.model_dump(mode="json"),
            "family": adapted.family,
        }
        config_text = json.dumps(config, indent=2) + "\n"
    else:
        from medpeft_cli.methods.hf import config_text as hf_config_text

        config_text = hf_config_text(adapted, (info.get("pipeline") or info["backbone"])["name"])
    with atomic_path(folder / TENSOR_FILE) as temporary:
        save_file(get_delta(adapted), temporary, metadata={"format": "pt"})
    if adapted.family == "unet" and adapted.injected.peft is not None:
        from medpeft_cli.methods.hf import lora_file

        if (content := lora_file(adapted)) is not None:
            with atomic_path(folder / LORA_FILE) as temporary:
                temporary.write_bytes(content)
    write_text(folder / CONFIG_FILE, config_text)
    write_json(folder / INFO_FILE, info)


def load_adapter_tensors(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an adapter folder.

    Returns:
        What `save_adapter` was given as info, and the delta for `set_delta`.

    Raises:
        DataError: if a file is missing or damaged, or of a format version that this program does not know.
    """
    try:
        config, info = (_read_map(folder / name) for name in (CONFIG_FILE, INFO_FILE))
        tensors = load_file(folder / TENSOR_FILE)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {Path(error.filename or TENSOR_FILE).name}, wanted an adapter folder") from error
    except (ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: damaged adapter: {error}") from error
    if config.get("format") == FORMAT and config.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{folder}: adapter format {config.get('format_version')}, wanted {FORMAT_VERSION}")
    return info, tensors


def _read_map(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no map")
    return content


def _live(adapted: Adapted) -> dict[str, Tensor]:
    """Return the delta's tensors themselves, not copies, by their key."""
    model, peft = adapted.model, adapted.injected.peft
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    if peft is None:
        return {name: tensors[name] for name in (*adapted.method_names, *adapted.head_names, *adapted.moving_names)}
    from medpeft_cli.methods.hf import adapter_tensors

    beside = {f"base_model.model.{name}": tensors[name] for name in (*adapted.head_names, *adapted.moving_names)}
    return adapter_tensors(adapted) | beside
