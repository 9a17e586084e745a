"""Load Stable Diffusion 1.x, 2.x or XL: from the hub, a diffusers folder or one safetensors file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medpeft_cli import compat  # noqa: F401  (before diffusers)

# isort: split

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.schedulers import SchedulerMixin
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.files import read_json
from medpeft_cli.models.backbones import first_line, state_sha256

BUNDLED = {"demo_sd": Path(__file__).parent.parent / "demo" / "weights" / "demo_sd"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MODELS = {  # part of a pipeline → its class, and how its weights files are called
    "unet": (UNet2DConditionModel, "diffusion_pytorch_model"),
    "vae": (AutoencoderKL, "diffusion_pytorch_model"),
    "text_encoder": (CLIPTextModel, "model"),
    "text_encoder_2": (CLIPTextModelWithProjection, "model"),
}
TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))  # the published form, and transformers' newer one
PLAIN = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
XL = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
XL_KEY = "conditioner.embedders.1."  # a single file that has the second text encoder
EMPTY_KEY = "force_zeros_for_empty_prompt"  # of XL's pipelines, true where it is left out
PREDICTIONS = ("epsilon", "v_prediction")

transformers.utils.logging.disable_progress_bar()
diffusers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Diffusion:
    """The parts of a Stable Diffusion pipeline, float32 on the CPU in eval mode.

    Attributes:
        unet: the network that is tuned.
        vae: pictures ↔ latents.
        text_encoders: one, or two for XL.
        tokenizers: one to each text encoder.
        scheduler: as the pipeline says; its `prediction_type` is "epsilon" or "v_prediction".
        kind: "sd1", "sd2" or "sdxl".
        size: side of the square pictures it was made for, pixels.
        title: the last part of its name.
        weights_source: the name it was loaded by, and its variant.
        weights_sha256: SHA-256 over the tensors of U-Net, VAE and text encoders.
        zeros_without_prompt: zeros stand for no prompt, as XL's pipelines say, not the embedding of "".
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: list[nn.Module]
    tokenizers: list[CLIPTokenizer]
    scheduler: SchedulerMixin
    kind: Literal["sd1", "sd2", "sdxl"]
    size: int
    title: str
    weights_source: str
    weights_sha256: str
    zeros_without_prompt: bool = False


def load_diffusion(name: str, *, variant: str | None = None, config: str | None = None) -> Diffusion:
    """Load a pipeline; nothing but safetensors is read, and no code from the folder is run.

    Args:
        name: hub id (fetched once into the hub's cache; HF_HUB_OFFLINE is obeyed), diffusers folder, .safetensors file
            with the whole model, or "demo_sd".
        variant: word in the names of the weights files, such as "fp16"; None = files without one.
        config: for a single file: folder or hub id with the configurations and the tokenizer; None = those of the
            published model whose layout the file has.

    Raises:
        RecipeError: if the name is none of these, or the pipeline is no Stable Diffusion 1.x, 2.x or XL.
        DataError: if a file is missing (it is named), damaged, or of another network.
    """
    path = BUNDLED.get(name, Path(name).expanduser())
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise DataError(f"{path}: a pickle can run code, wanted .safetensors", "convert it where you trust it")
    if path.suffix == ".safetensors":
        parts = _load_file(path, config)
    else:
        folder = path if path.is_dir() else _download(name, variant)
        parts = _load_folder(folder, variant)
    unet, vae, scheduler = parts["unet"], parts["vae"], parts["scheduler"]
    channels = (unet.config.in_channels, vae.config.latent_channels)
    if channels[0] != channels[1]:
        raise RecipeError(
            f"pipeline.name: the U-Net of {name!r} reads {channels[0]} channels, its VAE makes {channels[1]}",
            "take a text-to-image model, not one for inpainting, upscaling or editing",
        )
    if getattr(vae.config, "latents_mean", None) is not None:
        raise RecipeError(
            f"pipeline.name: the VAE of {name!r} shifts latents (latents_mean), wanted one that only scales them"
        )
    if not hasattr(scheduler, "betas"):
        raise RecipeError(
            f"pipeline.name: the {type(scheduler).__name__} of {name!r} has no betas: another noise than Stable Diffusion's",
            "flow matching and EDM are not supported",
        )
    if scheduler.config.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise RecipeError(
            f"pipeline.name: {name!r} predicts {scheduler.config.prediction_type!r}, wanted {' or '.join(PREDICTIONS)}"
        )
    suffixes = ("", "_2") if "text_encoder_2" in parts else ("",)
    text_encoders = [parts[f"text_encoder{suffix}"] for suffix in suffixes]
    plain: Literal["sd1", "sd2"] = "sd2" if unet.config.use_linear_projection else "sd1"
    return Diffusion(
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        tokenizers=[parts[f"tokenizer{suffix}"] for suffix in suffixes],
        scheduler=scheduler,
        kind="sdxl" if "text_encoder_2" in parts else plain,
        size=unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1),
        title=path.stem if path.is_file() else re.split(r"[\\/]", name.rstrip("\\/"))[-1],
        weights_source=name if variant is None else f"{name} ({variant})",
        weights_sha256=state_sha256(nn.ModuleList([unet, vae, *text_encoders])),
        zeros_without_prompt=parts["zeros_without_prompt"],
    )


def pipeline_of(diffusion: Diffusion) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Return diffusers' pipeline of these very parts, without safety checker or watermark."""
    shared = {"vae": diffusion.vae, "unet": diffusion.unet, "scheduler": diffusion.scheduler}
    parts = {"text_encoder": diffusion.text_encoders[0], "tokenizer": diffusion.tokenizers[0]} | shared
    if diffusion.kind == "sdxl":
        second = {"text_encoder_2": diffusion.text_encoders[1], "tokenizer_2": diffusion.tokenizers[1]}
        pipeline = StableDiffusionXLPipeline(
            **parts, **second, add_watermarker=False, force_zeros_for_empty_prompt=diffusion.zeros_without_prompt
        )
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- folders -------------------------------------------------------------------------------------------------------


def _download(name: str, variant: str | None) -> Path:
    """Fetch the files of a hub id that are needed, or find them in the cache; return the folder."""
    if not HUB_ID.fullmatch(name):
        raise RecipeError(
            f"pipeline.name: {name!r} is no folder, .safetensors file or hub id",
            "such as stable-diffusion-v1-5/stable-diffusion-v1-5, or the folder of a diffusers pipeline",
        )
    wanted = ["model_index.json", "scheduler/*.json", "tokenizer*/*.json", "tokenizer*/*.txt", "*/config.json"]
    word = "" if variant is None else f".{variant}"
    for part, (_, stem) in MODELS.items():
        wanted += [f"{part}/{stem}{word}.safetensors", f"{part}/{stem}{word}-*-of-*.safetensors"]
        wanted += [f"{part}/{stem}.safetensors.index{word}.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:
        raise DataError(
            f"pipeline.name: {name!r} cannot be fetched: {first_line(error)}",
            "without a network, fetch it once on a machine that has one (same HF_HOME), or give a local folder; "
            "for a gated model accept its licence and `hf auth login`",
        ) from error


def _load_folder(folder: Path, variant: str | None) -> dict[str, Any]:
    """Load the parts of a diffusers folder, after every file that is needed was found and looked into."""
    index = read_json(_existing(folder / "model_index.json", "wanted the folder of a diffusers pipeline"))
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind not in PLAIN + XL or index.get("text_encoder", [None])[0] is None:
        raise RecipeError(
            f"pipeline.name: {folder} holds a {kind}, wanted Stable Diffusion 1.x, 2.x or XL (base) for text-to-image"
        )
    suffixes = ("", "_2") if kind in XL else ("",)
    models = ["unet", "vae", *(f"text_encoder{suffix}" for suffix in suffixes)]
    for part in models:
        _existing(folder / part / "config.json")
        _refuse_bad_weights(folder / part, MODELS[part][1], variant)
    for suffix in suffixes:
        forms = [[folder / f"tokenizer{suffix}" / file for file in form] for form in TOKENIZER_FILES]
        if not any(all(file.is_file() for file in form) for form in forms):
            _existing(next(file for file in forms[0] if not file.is_file()))
    config = _existing(folder / "scheduler" / "scheduler_config.json")
    scheduler = read_json(config)
    if not isinstance(scheduler, dict):
        raise DataError(f"{config}: not readable: wanted a map", "copy it again")
    scheduler_class = getattr(diffusers, str(scheduler.get("_class_name")), None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise DataError(f"{folder}/scheduler: diffusers has no scheduler {scheduler.get('_class_name')!r}")
    parts = {part: _load_model(folder / part, MODELS[part][0], variant) for part in models}
    try:
        tokenizers = {
            f"tokenizer{suffix}": CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}") for suffix in suffixes
        }
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise DataError(f"{folder}/tokenizer: not readable: {first_line(error)}", "copy it again") from error
    others = {
        "scheduler": scheduler_class.from_config(scheduler),
        "zeros_without_prompt": kind in XL and index.get(EMPTY_KEY, True),
    }
    return parts | tokenizers | others


def _load_model(folder: Path, kind: type[nn.Module], variant: str | None) -> nn.Module:
    """Load one model; a tensor that is missing is an error, not a random one."""
    try:
        model, found = kind.from_pretrained(
            folder, variant=variant, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: not a readable {kind.__name__}: {first_line(error)}", "copy or download the folder again"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} tensors of the network are not in its weights file ({missing[0]}, …)",
            "the weights belong to another config.json; copy or download the folder again",
        )
    return model.eval()


def _refuse_bad_weights(folder: Path, stem: str, variant: str | None) -> None:
    """Open the head of each weights file of a part, and name what is missing or damaged."""
    word = "" if variant is None else f".{variant}"
    file = folder / f"{stem}{word}.safetensors"
    index = folder / f"{stem}.safetensors.index{word}.json"
    files = [file]
    if index.is_file() and not file.is_file():
        files = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
    for file in files:
        _existing(file, _other_form(folder, stem, variant))
        open_safetensors(file)


def _other_form(folder: Path, stem: str, variant: str | None) -> str | None:
    """Return what to do where the weights are there in another form, or None."""
    plain = f"{stem}.safetensors"
    others = [path.name for path in sorted(folder.glob(f"{stem}.*safetensors")) if path.name != plain]
    if variant is None and others:
        return f"set pipeline.variant: {others[0].split('.')[1]}"
    if variant is not None and (folder / plain).is_file():
        return "set pipeline.variant: null"
    pickles = sorted(folder.glob("*pytorch_model*.bin"))
    return f"{pickles[0].name} is a pickle, which can run code; convert it where you trust it" if pickles else None


def _existing(path: Path, hint: str | None = None) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint or "copy or download the whole pipeline again")
    return path


def open_safetensors(path: Path) -> list[str]:
    """Return the names of a safetensors file's tensors.

    Raises:
        DataError: if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors file: {first_line(error)}", "download it again") from error


# --- single files --------------------------------------------------------------------------------------------------


def _load_file(file: Path, config: str | None) -> dict[str, Any]:
    """Load the parts from one file with the tensors of all models, in the layout of the original code."""
    names = open_safetensors(_existing(file))
    is_xl = any(name.startswith(XL_KEY) for name in names)
    kind, off = StableDiffusionXLPipeline, {}
    if not is_xl:
        kind, off = StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}
    try:
        pipeline = kind.from_single_file(str(file), config=config, torch_dtype=torch.float32, **off)
    except NotImplementedError as error:  # torch's answer where a tensor was never filled
        raise DataError(
            f"{file}: tensors of the networks are not in it", "wanted the whole model in one file"
        ) from error
    except Exception as error:
        raise DataError(
            f"{file}: cannot be read as {kind.__name__}: {first_line(error)}",
            "a single file has no configurations and no tokenizer: without a network set pipeline.config to a folder "
            "of a diffusers pipeline of the same kind that has them",
        ) from error
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    for name in MODELS.keys() & parts.keys():
        unset = [tensor for tensor, value in parts[name].state_dict().items() if value.is_meta]
        if unset:
            raise DataError(f"{file}: {len(unset)} tensors of the {name} are not in it ({unset[0]}, …)")
        parts[name].eval()
    return parts | {"zeros_without_prompt": is_xl and pipeline.config.get(EMPTY_KEY, True)}
