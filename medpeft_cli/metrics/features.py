"""Features of a set of pictures: encoded once, kept by content, joined over shards."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medpeft_cli.console import Advance, console
from medpeft_cli.data.threads import ahead
from medpeft_cli.errors import DataError
from medpeft_cli.files import atomic_path
from medpeft_cli.metrics.encoders import Encoder
from medpeft_cli.metrics.pictures import Pictures

BATCH = 32  # pictures at a time


def features_of(
    pictures: Pictures, encoder: Encoder, cache: Path | None = None, advance: Advance | None = None
) -> np.ndarray:
    """Return the features of each picture.

    Threads decode and resize ahead of the network. The pictures come in the order of their content, so that neither their
    names nor the shards they lie in change a batch.

    Args:
        pictures: N pictures.
        encoder: the network.
        cache: folder where the features are kept under the hash of pictures, encoder, device and torch; None = not kept.
        advance: told of each batch.

    Returns:
        float32 (N, F).

    Raises:
        DataError: if a picture cannot be read or a feature is not finite.
        RunError: if the cache cannot be written.
    """
    path = None if cache is None else cache / f"{_key(pictures, encoder)}.safetensors"
    if path is not None and path.is_file():
        try:
            kept = load_file(path)["features"]
        except (SafetensorError, KeyError, OSError):
            console.warn(f"{path}: damaged, encoded again")
        else:
            if advance is not None:
                advance(len(kept))
            console.detail(f"features of {len(kept)} pictures ← {path}")
            return kept
    prepared = ahead(lambda index: encoder.prepare(pictures.read(index)), len(pictures), 3 * BATCH)
    parts = []
    for start in range(0, len(pictures), BATCH):
        batch = torch.stack([next(prepared) for _ in range(min(BATCH, len(pictures) - start))])
        parts.append(encoder.encode(batch).numpy())
        if not np.isfinite(parts[-1]).all():
            row = start + int(np.argmin(np.isfinite(parts[-1]).all(axis=1)))
            raise DataError(f"{pictures.names[row]}: its features are not finite", "check the encoder's weights")
        if advance is not None:
            advance(len(batch))
    features = np.concatenate(parts)
    if path is not None:
        with atomic_path(path) as draft:
            save_file({"features": features}, draft)
    return features


def _key(pictures: Pictures, encoder: Encoder) -> str:
    parts = [pictures.sha256, encoder.protocol() | {"name": "", "weights": ""}, encoder.device.type, torch.__version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
