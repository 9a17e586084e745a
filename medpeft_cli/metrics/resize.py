"""From a picture of any size to the square that a network reads."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from medpeft_cli.data.decode import FILTERS

Resize = Callable[[np.ndarray, int], np.ndarray]


def clean_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize by Pillow's bicubic filter, antialiased, in float and clipped (Parmar et al. 2022, arXiv:2104.11222, clean-fid).

    Shape:
        pixels: uint8 (H, W) or (H, W, 3) → float32 (S, S) or (S, S, 3), values 0–255.
    """
    channels = [pixels] if pixels.ndim == 2 else [pixels[:, :, channel] for channel in range(3)]
    images = (Image.fromarray(channel.astype(np.float32)) for channel in channels)
    resized = [np.asarray(image.resize((size, size), FILTERS["bicubic"])).clip(0, 255) for image in images]
    return resized[0] if pixels.ndim == 2 else np.stack(resized, axis=2)


def tensorflow_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize bilinearly without antialiasing, as TensorFlow 1 and the reference implementations of FID do.

    Shape:
        pixels: uint8 (H, W) or (H, W, 3) → float32 (S, S) or (S, S, 3), values 0–255.
    """
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    batch = torch.from_numpy(np.ascontiguousarray(pixels).reshape(1, *pixels.shape[:2], -1)).permute(0, 3, 1, 2)
    resized = interpolate_bilinear_2d_like_tensorflow1x(batch.float(), size=(size, size), align_corners=False)
    return resized[0].permute(1, 2, 0).numpy().reshape(size, size, *pixels.shape[2:])


def centre_square(pixels: np.ndarray) -> np.ndarray:
    """Return the largest centred square of a picture, without a copy."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
