"""Decode a picture file to 8-bit grey or RGB, in one stated way for every mode a file may have."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from medpeft_cli.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
DICOM = (".dcm", ".dicom")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm", *DICOM)
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def is_picture(name: str) -> bool:
    """Return whether the file name has the extension of a picture that can be read."""
    return name.lower().endswith(PICTURES)


def decode_file(path: Path) -> np.ndarray:
    """Decode a picture file.

    - 1 bit: 0 and 255. Palette, YCbCr, CMYK, LAB: Pillow's conversion to RGB.
    - Alpha: laid over black, the background of most medical pictures.
    - More than 8 bits of grey (16-bit, 32-bit, float): linear from the picture's own minimum (0) to its maximum (255).
      16-bit RGB: the high byte.
    - EXIF rotation is applied. Of several frames the first is taken.
    - DICOM: rescale, then the first window; more than 8 bits linear as above; MONOCHROME1 inverted.

    Returns:
        uint8 (H, W) grey, or (H, W, 3) RGB. RGB with three equal channels is returned as grey: nothing is lost.

    Raises:
        DataError: if the file cannot be read; the message is the reason alone.
    """
    try:
        pixels = _dicom(path) if path.suffix.lower() in DICOM else _picture(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        reason = getattr(error, "strerror", None) or str(error).replace(str(path), "file") or type(error).__name__
        raise DataError(" ".join(reason.split())) from None
    return as_grey_if_equal(pixels)


def as_grey_if_equal(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W) where a picture has one channel or three equal ones, otherwise (H, W, 3); uint8."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    first = pixels[:, :, 0]
    middle = len(pixels) // 2  # one row tells most colour pictures apart
    for rows in (slice(middle, middle + 1), slice(None)):
        if not all(np.array_equal(first[rows], pixels[rows, :, channel]) for channel in (1, 2)):
            return pixels
    return np.ascontiguousarray(first)


def shrink(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the picture with its short side at most `size` pixels: bicubic, antialiased, aspect kept, never enlarged.

    Shape:
        pixels: uint8 (H, W) or (H, W, 3) → uint8 with the same channels.
    """
    height, width = pixels.shape[:2]
    if min(height, width) <= size:
        return pixels
    scale = size / min(height, width)
    target = (max(size, round(width * scale)), max(size, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC))


def stretch(values: np.ndarray) -> np.ndarray:
    """Return values of any number type as uint8, linear from their minimum (0) to their maximum (255).

    Raises:
        ValueError: if a value is not finite.
    """
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels are not finite")
    low, high = values.min(), values.max()
    return np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


def _picture(path: Path) -> np.ndarray:
    with Image.open(path, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return stretch(np.asarray(image))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))


def _dicom(path: Path) -> np.ndarray:
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    dataset = dcmread(path)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{dataset.NumberOfFrames} frames, wanted one")
    photometric = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    pixels = pixel_array(dataset)  # YBR comes as RGB
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    if "ModalityLUTSequence" in dataset or (dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)) != (
        1,
        0,
    ):
        pixels = apply_modality_lut(pixels, dataset)
    if "VOILUTSequence" in dataset or "WindowCenter" in dataset:
        pixels = apply_voi_lut(pixels, dataset, index=0)
    grey = pixels if pixels.dtype == np.uint8 else stretch(pixels)
    return 255 - grey if photometric == "MONOCHROME1" else grey
