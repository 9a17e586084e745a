"""Generated pictures against real ones: every metric with its interval, and the protocol that makes it comparable."""

from pathlib import Path
from typing import Any

import numpy as np

from medpeft_cli.console import console
from medpeft_cli.errors import DataError
from medpeft_cli.metrics import generation
from medpeft_cli.metrics.alignment import ClipModel, clip_scores
from medpeft_cli.metrics.diversity import SIZE, ms_ssim_pairs
from medpeft_cli.metrics.encoders import Encoder
from medpeft_cli.metrics.features import features_of
from medpeft_cli.metrics.pictures import Pictures
from medpeft_cli.runs.environment import versions

CLOSEST = 10  # pairs of generated and training pictures that are named
LIBRARIES = (
    "medpeft", "torch", "timm", "open_clip_torch", "transformers", "torchmetrics", "torch-fidelity", "numpy", "pillow",
)  # fmt: skip


def compare(
    real: Pictures,
    generated: Pictures,
    *,
    encoder: Encoder,
    clip: ClipModel | None = None,
    train: Pictures | None = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Compare generated with real pictures.

    Args:
        real: N reference pictures; their features are kept in `cache`.
        generated: M pictures, with their prompts where CLIP scores are wanted.
        encoder: of the features.
        clip: for the CLIP score; None = without.
        train: pictures that the generator was trained on, for the distance of copies; None = without.
        bootstrap: resamples behind each interval; 0 = no intervals.
        confidence: coverage of each interval, 0–1.
        seed: of resamples and pairs; None = from the reference set's hash, so that all runs against it are comparable.
        cache: folder of kept features; None = nothing is kept.

    Returns:
        JSON-ready `{"n", "protocol", "overall": {metric: {"value", "low", "high"}}, "closest"}`.

    Raises:
        DataError: if a picture cannot be read, there are too few, features are not finite, or prompts are missing.
    """
    fewest = generation.FEWEST
    for title, pictures in (("real", real), ("generated", generated)):
        if len(pictures) < fewest:
            raise DataError(
                f"{title} pictures: {len(pictures)}, the metrics need {fewest} at least",
                "hundreds make a usable estimate, and only equal numbers can be compared",
            )
    if clip is not None and generated.prompts is None:
        raise DataError(
            "generated pictures: the CLIP score needs the prompt of each, and there is no images.jsonl",
            "--prompts FILE: a .csv with columns file and prompt",
        )
    seed = int(real.sha256[:8], 16) if seed is None else seed
    chosen = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}

    features = {}
    for title, pictures in (("real", real), ("generated", generated), ("train", train)):
        if pictures is not None:
            with console.progress(len(pictures), title, "images") as advance:
                keep = None if title == "generated" else cache
                features[title] = features_of(pictures, encoder, keep, advance)
    measures = generation.feature_measures(features["real"], features["generated"])
    width = features["real"].shape[1]
    protocol: dict[str, Any] = {
        "encoder": encoder.protocol() | {"features": width, "device": encoder.device.type},
        "images": {"real": len(real), "generated": len(generated)},
        "sha256": {"real": real.sha256, "generated": generated.sha256},
        "neighbours": {
            "improved_precision": generation.PRECISION_NEIGHBOURS, "improved_recall": generation.PRECISION_NEIGHBOURS,
            "density": generation.DENSITY_NEIGHBOURS, "coverage": generation.DENSITY_NEIGHBOURS,
        },
        "kid": "unbiased, all pairs, (x·y / F + 1)³",
        **chosen,
        "interval": "percentile, first-order bootstrap over the features of both sets",
        "unit": "image",
    }  # fmt: skip
    undefined: dict[str, str] = {}

    closest = []
    if train is not None:
        protocol["images"]["train"], protocol["sha256"]["train"] = len(train), train.sha256
        of_real, _ = generation.nearest(features["real"], features["train"])
        distances, which = generation.nearest(features["generated"], features["train"])
        try:
            measures["nearest_train"] = generation.nearest_measure(of_real, distances)
        except DataError as error:
            undefined["nearest_train"] = error.message
        closest = [
            {"generated": generated.names[i], "train": train.names[which[i]], "distance": float(distances[i])}
            for i in np.argsort(distances, kind="stable")[:CLOSEST]
        ]
    if clip is not None and generated.prompts is not None:
        with console.progress(len(generated), "CLIP", "images") as advance:
            scores, cut = clip_scores(clip, generated, generated.prompts, advance)
        measures["clip_score"] = generation.mean_measure(len(real), generated=scores)
        protocol["clip"] = clip.protocol() | {"prompts_truncated": cut}
    overall = generation.estimates(measures, **chosen)

    pairs = {
        title: ms_ssim_pairs(each, seed, encoder.device) for title, each in (("real", real), ("generated", generated))
    }
    overall |= generation.estimates({"ms_ssim": generation.mean_measure(generated=pairs["generated"])}, **chosen)
    protocol["ms_ssim"] = {"pairs": len(pairs["generated"]), "size_pixels": SIZE, "real": float(pairs["real"].mean())}
    protocol |= {"versions": versions(LIBRARIES), "undefined": undefined}
    return {"n": len(generated), "protocol": protocol, "overall": overall, "closest": closest}
