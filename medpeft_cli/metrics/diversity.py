"""MS-SSIM between random pictures of one set: how much alike they are."""

import numpy as np
import torch

from medpeft_cli import compat  # noqa: F401  (before torchmetrics)
from medpeft_cli.data.threads import ahead
from medpeft_cli.metrics.pictures import Pictures
from medpeft_cli.metrics.resize import centre_square, clean_resize

SIZE = 176  # pixels; five scales of an 11-pixel window need more than 160
PAIRS = 100  # at most
BATCH = 16


def ms_ssim_pairs(pictures: Pictures, seed: int, device: torch.device) -> np.ndarray:
    """Return the MS-SSIM of random pairs (Wang, Simoncelli & Bovik 2003; torchmetrics), each picture in one pair at most.

    Grey, the largest centred square at 176 × 176 pixels, so that pictures of any sizes can be compared.

    Args:
        pictures: M pictures, 2 at least.
        seed: of the draw.
        device: where it computes.

    Returns:
        float64 (P,), P = min(M // 2, 100); 1 = identical.
    """
    # not above: it takes matplotlib and scipy.signal along, and text-to-image would wait for them before its first step
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    drawn = np.random.default_rng(seed).permutation(len(pictures))[: 2 * min(len(pictures) // 2, PAIRS)]

    def read(place: int) -> np.ndarray:
        pixels = clean_resize(centre_square(pictures.read(int(drawn[place]))), SIZE)
        return pixels if pixels.ndim == 2 else pixels.mean(axis=2)

    images = ahead(read, len(drawn), 4 * BATCH)
    values = []
    for start in range(0, len(drawn), 2 * BATCH):
        batch = np.stack([next(images) for _ in range(min(2 * BATCH, len(drawn) - start))])
        pairs = torch.from_numpy(batch).to(device).reshape(-1, 2, 1, SIZE, SIZE)
        values.append(
            multiscale_structural_similarity_index_measure(
                pairs[:, 0], pairs[:, 1], data_range=255.0, reduction="none"
            ).cpu()
        )
    return torch.cat(values).double().numpy()
