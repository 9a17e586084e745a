"""CLIP score: how well a picture fits its prompt, by any open_clip model, with that model's own transform and context."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from medpeft_cli import compat  # noqa: F401  (before open_clip)
from medpeft_cli.console import Advance
from medpeft_cli.data.threads import ahead
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.metrics.pictures import Pictures
from medpeft_cli.models.backbones import first_line, read_weights, state_sha256
from medpeft_cli.registry import nearest

BATCH = 32  # pictures or prompts at a time


@dataclass(frozen=True)
class ClipModel:
    """An open_clip model with what belongs to it.

    Attributes:
        name: as given.
        model: the network.
        transform: PIL image → float32 (3, S, S), the model's own.
        tokenizer: prompts → int64 (B, context).
        context: tokens a prompt may have, markers included.
        sha256: of the model's tensors.
        device: where it computes.
    """

    name: str
    model: nn.Module
    transform: Any
    tokenizer: Any
    context: int
    sha256: str
    device: torch.device

    def protocol(self) -> dict[str, Any]:
        """Return everything that decides the score, JSON-ready."""
        read = self.model.visual.preprocess_cfg
        return {
            "name": self.name,
            "sha256": self.sha256,
            "context_tokens": self.context,
            "size_pixels": read["size"],
            "resize": read["resize_mode"],
            "filter": f"{read['interpolation']} (Pillow)",
            "antialias": True,
            "mean": list(read["mean"]),
            "std": list(read["std"]),
        }


def load_clip(name: str, device: torch.device, weights: Path | None = None) -> ClipModel:
    """Load an open_clip model.

    Args:
        name: demo, `NAME@TAG` (such as ViT-B-32@openai), `hf-hub:ORG/NAME`, `local-dir:FOLDER`, or NAME with a weights file;
            `open_clip:` may stand before it.
        device: where it computes.
        weights: a local file for NAME.

    Raises:
        RecipeError: for an unknown name.
        DataError: if weights or tokenizer are not here or do not fit; the hint says how to get them.
    """
    name = name.removeprefix("open_clip:")
    model = build_open_clip(name, weights)
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    try:
        tokenizer = open_clip.get_tokenizer(_place(name).partition("@")[0])
    except Exception as error:
        raise DataError(f"CLIP model {name!r}: its tokenizer cannot be loaded: {first_line(error)}", _hint()) from error
    return ClipModel(
        name,
        model.to(device),
        image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False),
        tokenizer,
        tokenizer.context_length,
        state_sha256(model),
        device,
    )


def build_open_clip(name: str, weights: Path | None = None) -> nn.Module:
    """Build an open_clip model with its weights, in eval mode on the CPU; see `load_clip`.

    Raises:
        RecipeError: for an unknown name.
        DataError: if the weights are not here or do not fit.
    """
    import open_clip

    place, _, tag = _place(name).partition("@")
    local = place.startswith(("local-dir:", "hf-hub:"))
    if not local and place not in open_clip.list_models():
        known = {each.lower(): each for each in open_clip.list_models()}
        guess = known.get(nearest(place, known) or "", "ViT-B-32")
        raise RecipeError(
            f"CLIP model {name!r}: unknown to open_clip",
            f"did you mean {guess!r}? also hf-hub:ORG/NAME, local-dir:FOLDER",
        )
    if local and weights:
        raise RecipeError(f"CLIP model {name!r}: takes no weights file", "its folder holds them")
    tags = open_clip.list_pretrained_tags_by_model(place)
    if not local and not weights and tag not in tags:
        raise RecipeError(f"CLIP model {name!r}: which weights?", f"{place}@TAG with one of {', '.join(tags)}")
    try:
        model = open_clip.create_model(
            place,
            pretrained=tag or None,
            load_weights=not weights,
            require_pretrained=not weights,
            pretrained_text=False,
        )
    except Exception as error:
        raise DataError(f"CLIP model {name!r}: cannot be loaded: {first_line(error)}", _hint()) from error
    if weights:
        try:
            model.load_state_dict(read_weights(weights))
        except RuntimeError as error:
            problem = str(error).splitlines()[-1].strip()
            raise DataError(f"{weights}: weights of another network than {place}: {problem}") from error
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def clip_scores(
    clip: ClipModel, pictures: Pictures, prompts: Sequence[str], advance: Advance | None = None
) -> tuple[np.ndarray, int]:
    """Return 100 × cosine of each picture and its prompt (Hessel et al. 2021, arXiv:2104.08718, without their clipping at 0).

    Args:
        clip: the model.
        pictures: M pictures.
        prompts: M prompts.
        advance: told of each batch of pictures.

    Returns:
        float64 (M,), and how many prompts were longer than the model's context and were cut.

    Raises:
        DataError: if a prompt is empty, a picture cannot be read, or a score is not finite.
    """
    if empty := [name for name, prompt in zip(pictures.names, prompts, strict=True) if not prompt.strip()]:
        raise DataError(f"{empty[0]}: empty prompt, as {len(empty)} of {len(prompts)} pictures have")
    distinct = list(dict.fromkeys(prompts))
    pad = clip.tokenizer([""], context_length=clip.context + 2)[0, -1]
    texts, cut = [], set()
    for start in range(0, len(distinct), BATCH):
        part = distinct[start : start + BATCH]
        longer = clip.tokenizer(part, context_length=clip.context + 2)[:, clip.context :]  # (B, 2)
        cut |= {prompt for prompt, tokens in zip(part, longer, strict=True) if (tokens != pad).any()}
        texts.append(_unit(clip.model.encode_text(clip.tokenizer(part, context_length=clip.context).to(clip.device))))
    text_of = dict(zip(distinct, torch.cat(texts), strict=True))

    def prepare(index: int) -> Tensor:
        return clip.transform(Image.fromarray(pictures.read(index)).convert("RGB"))

    prepared = ahead(prepare, len(pictures), 2 * BATCH)
    scores = []
    for start in range(0, len(pictures), BATCH):
        batch = torch.stack([next(prepared) for _ in range(min(BATCH, len(pictures) - start))])
        images = _unit(clip.model.encode_image(batch.to(clip.device)))
        scores.append(
            (images * torch.stack([text_of[each] for each in prompts[start : start + len(batch)]])).sum(dim=1)
        )
        if advance is not None:
            advance(len(batch))
    cosines = 100 * torch.cat(scores).cpu().numpy()
    if not np.isfinite(cosines).all():
        name = pictures.names[int(np.argmin(np.isfinite(cosines)))]
        raise DataError(f"{name}: its CLIP score is not finite", "check the CLIP model's weights")
    return cosines, sum(prompt in cut for prompt in prompts)


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors.double(), dim=1)


def _place(name: str) -> str:
    """Return the name as open_clip has it."""
    if name != "demo":
        return name
    from medpeft_cli.demo.networks import WEIGHTS

    return f"local-dir:{WEIGHTS / 'demo_clip'}"


def _hint() -> str:
    return (
        "without a network, fetch it once on a machine that has one (same HF_HOME), or give local-dir:FOLDER with "
        "open_clip_config.json, open_clip_model.safetensors and the tokenizer's files; a model whose text encoder is from "
        "Hugging Face, as BiomedCLIP's, needs that one's config too"
    )
