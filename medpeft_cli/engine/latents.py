"""What the U-Net is trained on, computed once and kept on disk: moments of the VAE's latents, embeddings of the prompts."""

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from medpeft_cli import compat  # noqa: F401  (before diffusers)

# isort: split
import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor

from medpeft_cli.console import console
from medpeft_cli.data.images import Batches, ImageStore, InputSpec
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.predict import normalise
from medpeft_cli.engine.rows import KEY, RowStore, cache_folder
from medpeft_cli.models.backbones import state_sha256
from medpeft_cli.models.diffusion import Diffusion, pipeline_of

PROMPTS_AT_ONCE = 64
PLAIN: dict[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}


@dataclass(frozen=True)
class Prompts:
    """Embedded prompts.

    Attributes:
        tokens: float32 (B, 77, D), what the U-Net's cross-attention reads.
        pooled: float32 (B, P) for XL, else None.
    """

    tokens: Tensor
    pooled: Tensor | None


class PromptEncoder:
    """The text encoders of a pipeline, on a device.

    Args:
        diffusion: the pipeline's parts.
        device: where they compute, in float32.
    """

    def __init__(self, diffusion: Diffusion, device: torch.device):
        self.pipeline, self.device = pipeline_of(diffusion), device
        self.tokenizers = diffusion.tokenizers
        for encoder in diffusion.text_encoders:
            encoder.to(device)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Prompts:
        """Return the embeddings as diffusers computes them; what is over a tokenizer's limit is cut off."""
        with quiet():
            found = self.pipeline.encode_prompt(list(texts), device=self.device, **PLAIN)
        return Prompts(found[0], found[2] if len(found) == 4 else None)

    @torch.inference_mode()
    def empty(self) -> Prompts:
        """Return what stands for no prompt in classifier-free guidance: that of "", or zeros where XL asks for them."""
        found = self.pipeline.encode_prompt(
            "", device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        return Prompts(found[1], found[3] if len(found) == 4 else None)

    def too_long(self, texts: Sequence[str]) -> int:
        """Return how many texts are longer than the tokenizer's limit, start and end included."""
        tokenizer = self.tokenizers[0]
        with quiet():
            lengths = (len(tokens) for tokens in tokenizer(list(texts))["input_ids"])
            return sum(length > tokenizer.model_max_length for length in lengths)


class Encoded:
    """Pictures and texts of a dataset as the U-Net reads them, from disk.

    Args:
        manifest: the dataset.
        moments: rows (2C, h, w): mean and logarithm of the variance of a picture's latents.
        prompts: flat rows: tokens, then the pooled embedding.
        empty: what stands for no prompt.
        scale: factor between the VAE's latents and the U-Net's.
    """

    def __init__(self, manifest: Manifest, moments: RowStore, prompts: RowStore, empty: Prompts, scale: float):
        self.manifest, self._moments, self._prompts = manifest, moments, prompts
        self._empty, self.scale = empty, scale
        self.shape = (moments.shape[0] // 2, *moments.shape[1:])  # C, h, w of the latents

    def latents(self, indices: Sequence[int], noise: Tensor | None) -> Tensor:
        """Return latents as the U-Net reads them, float32 (B, C, h, w).

        Args:
            indices: of the pictures.
            noise: standard normal (B, C, h, w): latents are drawn from the VAE's posterior with it; None = its mean.
        """
        mean, logvar = self._read(self._moments, [self.manifest.pixels[index] for index in indices]).chunk(2, dim=1)
        if noise is not None:
            mean = mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * noise  # diffusers' bounds
        return mean * self.scale

    def prompts(self, indices: Sequence[int], dropped: np.ndarray | None = None) -> Prompts:
        """Return the prompts of pictures; those that are `dropped`, bool (B,), are empty ones."""
        texts = self.manifest.texts or []
        rows = self._read(self._prompts, [text_key(texts[index]) for index in indices])
        size = self._empty.tokens[0].numel()
        tokens = rows[:, :size].reshape(-1, *self._empty.tokens.shape[1:])
        pooled = None if self._empty.pooled is None else rows[:, size:]
        if dropped is not None and dropped.any():
            where = torch.from_numpy(dropped)
            tokens = torch.where(where[:, None, None], self._empty.tokens, tokens)
            if pooled is not None:
                pooled = torch.where(where[:, None], self._empty.pooled, pooled)
        return Prompts(tokens, pooled)

    @staticmethod
    def _read(store: RowStore, keys: list[str]) -> Tensor:
        return torch.from_numpy(store.rows(keys)).float()


def encode_dataset(assembly: Assembly, indices: np.ndarray) -> Encoded:
    """Return pictures and texts of a dataset for the U-Net; what is not in the cache yet is computed first.

    The cache lies beside the prepared dataset. Its keys are the encoders' weights, the picture's pixels, its size, the
    text: runs of all methods, seeds and fractions share it, and a run that was killed goes on where it stopped.

    Args:
        assembly: dataset and pipeline.
        indices: of the pictures that are needed.
    """
    diffusion, manifest, device = assembly.pretrained, assembly.manifest, assembly.device
    cache = cache_folder(manifest.root)
    encoder = PromptEncoder(diffusion, device)
    empty = encoder.empty()
    empty = Prompts(empty.tokens.cpu(), None if empty.pooled is None else empty.pooled.cpu())
    width = empty.tokens[0].numel() + (0 if empty.pooled is None else empty.pooled[0].numel())
    prompts = RowStore(cache / f"prompts-{_text_encoders_key(diffusion)}", (width,))
    texts = {text_key(text): text for text in (manifest.texts[index] for index in indices.tolist())}

    def embed(keys: list[str]) -> Tensor:
        found = encoder([texts[key] for key in keys])
        parts = [found.tokens, *([] if found.pooled is None else [found.pooled])]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    prompts.fill(list(texts), "prompts", _in_groups(PROMPTS_AT_ONCE, embed))
    if longer := encoder.too_long(list(texts.values())):
        console.warn(f"{longer:,} of {len(texts):,} texts are longer than the text encoder reads; their end is cut off")

    size = assembly.input.size
    vae = diffusion.vae.to(device)
    side = size // 2 ** (len(vae.config.block_out_channels) - 1)
    moments = RowStore(cache / f"moments-{state_sha256(vae)[:16]}-{size}", (2 * vae.config.latent_channels, side, side))
    places = {manifest.pixels[index]: index for index in indices.tolist()}
    store = ImageStore(manifest)

    def encode(keys: list[str]) -> Tensor:
        images = read_pictures(store, manifest, assembly.input, [places[key] for key in keys], assembly.workers)
        return vae.encode(normalise(images.to(device), assembly.input)).latent_dist.parameters

    moments.fill(list(places), "latents", _in_groups(assembly.recipe.train.micro_batch_size, encode))
    return Encoded(manifest, moments, prompts, empty, vae.config.scaling_factor)


def without_encoders(assembly: Assembly) -> Assembly:
    """Return the assembly without VAE and text encoders, and give their memory back."""
    bare = replace(assembly.pretrained, vae=None, text_encoders=[], tokenizers=[])
    return replace(assembly, pretrained=bare)


def free_memory() -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def read_pictures(
    store: ImageStore, manifest: Manifest, spec: InputSpec, indices: Sequence[int], workers: int
) -> Tensor:
    """Return pictures of a dataset, resized and centre-cropped, uint8 (B, 3, S, S)."""
    batches = Batches(store, manifest.labels, spec, None, [np.asarray(indices)], 0, 0, workers)
    return next(iter(batches))[0]


def text_key(text: str) -> str:
    """Return the key of a text."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:KEY]


def _in_groups(
    at_once: int, compute: Callable[[list[str]], Tensor]
) -> Callable[[list[str]], Iterator[tuple[list[str], np.ndarray]]]:
    """Return what computes rows for `RowStore.fill`, so many at once."""

    def work(missing: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        for start in range(0, len(missing), at_once):
            group = missing[start : start + at_once]
            with torch.inference_mode():
                rows = compute(group).float().cpu().numpy()
            yield group, rows

    return work


def _text_encoders_key(diffusion: Diffusion) -> str:
    whole = hashlib.sha256()
    for encoder, tokenizer in zip(diffusion.text_encoders, diffusion.tokenizers, strict=True):
        whole.update(state_sha256(encoder).encode())
        whole.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return whole.hexdigest()[:16]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers and transformers from warning of each text that is cut off; we count them."""
    loggers = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
