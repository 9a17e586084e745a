"""Decode a picture file to 8-bit grey or RGB, in one stated way for every mode a file may have."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medpeft_cli.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
DICOM = (".dcm", ".dicom")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm", *DICOM)
TEXTS = (
    ".csv",
    ".tsv",
    ".tab",
    ".txt",
    ".md",
    ".json",
    ".xml",
    ".html",
    ".pdf",
    ".py",
    ".zip",
    ".gz",
    ".npz",
    ".parquet",
)
KIND_NAMES = {
    "1": "black and white", "L": "grey", "LA": "grey with alpha", "P": "palette", "PA": "palette with alpha", "I": "32-bit grey",
    "F": "float grey", "I;16": "16-bit grey", "I;16B": "16-bit grey", "I;16L": "16-bit grey",
}  # fmt: skip
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture that can be read: by its extension, or a DICOM file by its first bytes."""
    if path.name.startswith("._"):  # macOS puts ._x.png beside x.png into archives
        return False
    return path.suffix.lower() in PICTURES or is_dicom(path)


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by its extension, or, where that tells nothing (IM0001, 1.2.840.…), its bytes."""
    suffix = path.suffix.lower()
    if suffix in DICOM:
        return True
    if suffix in PICTURES or suffix in TEXTS or path.name == "DICOMDIR":  # an index, without pixels
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_tag(path: Path, keyword: str) -> str:
    """Return one text of a DICOM header, "" where it is not there or the file is no DICOM.

    Args:
        path: the file.
        keyword: such as PatientID.
    """
    from pydicom import dcmread

    try:
        return str(dcmread(path, stop_before_pixels=True, specific_tags=[keyword]).get(keyword) or "").strip()
    except Exception:  # a damaged file is listed when its pixels are read
        return ""


def decode_file(path: Path) -> np.ndarray:
    """Return the pixels of `decode_image`: uint8 (H, W) grey, or (H, W, 3) RGB, as grey where three channels are equal."""
    return as_grey_if_equal(np.asarray(decode_image(path)))


def decode_image(path: Path) -> Image.Image:
    """Decode a picture file.

    - 1 bit: 0 and 255. Palette, YCbCr, CMYK, LAB: Pillow's conversion to RGB.
    - Alpha: laid over black, the background of most medical pictures.
    - More than 8 bits of grey (16-bit, 32-bit, float): linear from the picture's own minimum (0) to its maximum (255).
      16-bit RGB: the high byte.
    - EXIF rotation is applied. Of several frames the first is taken.
    - DICOM: rescale, then the first window, whose two ends become 0 and 255. Without a window, more than 8 bits of
      grey are linear as above. MONOCHROME1 is inverted.

    Returns:
        Mode L or RGB; `info["kind"]` is what the file holds: "grey", "RGB", "RGBA", "16-bit grey", "DICOM", ….

    Raises:
        DataError: if the file cannot be read; the message is the reason alone.
    """
    try:
        image, kind = (Image.fromarray(_dicom(path)), "DICOM") if is_dicom(path) else _picture(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise DataError(_reason(error, path)) from None
    image.info["kind"] = kind
    return image


def _reason(error: Exception, path: Path) -> str:
    """Return in a few words why a picture cannot be decoded."""
    if path.is_file() and path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a known format"
    if type(error).__name__ == "InvalidDicomError":  # pydicom is imported for DICOM files only
        return "no DICOM file"
    reason = getattr(error, "strerror", None) or str(error).replace(str(path), "file") or type(error).__name__
    return " ".join(reason.split())


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


def shrink(image: Image.Image, size: int) -> Image.Image:
    """Return the picture with its short side at most `size` pixels: bicubic, antialiased, aspect kept, never enlarged."""
    short = min(image.size)
    if short <= size:
        return image
    width, height = (max(size, round(side * (size / short))) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


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


def _picture(path: Path) -> tuple[Image.Image, str]:
    with Image.open(path, formats=FORMATS) as image:
        kind = KIND_NAMES.get(image.mode, image.mode)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    return _grey_or_rgb(image), kind


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(stretch(np.asarray(image)))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L" if image.mode == "1" else "RGB")


def _dicom(path: Path) -> np.ndarray:
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array

    dataset = dcmread(path)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{dataset.NumberOfFrames} frames, wanted one")
    photometric = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    pixels = pixel_array(dataset)  # YBR comes as RGB
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else (pixels >> (int(dataset.BitsStored) - 8)).astype(np.uint8)
    rescaled = (dataset.get("RescaleSlope") or 1, dataset.get("RescaleIntercept") or 0) != (1, 0)
    if "ModalityLUTSequence" in dataset or rescaled:
        pixels = apply_modality_lut(pixels, dataset)
    if "VOILUTSequence" in dataset:
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        grey = _eight_bits(apply_voi(pixels, dataset, index=0) / (2**bits - 1))
    elif _has_window(dataset):
        grey = _eight_bits(window(pixels, dataset))
    else:
        grey = pixels if pixels.dtype == np.uint8 else stretch(pixels)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _has_window(dataset: Any) -> bool:
    return dataset.get("WindowCenter") not in (None, "") and dataset.get("WindowWidth") not in (None, "")


def window(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Return values as seen through the first window of a DICOM header, float64 in 0–1 (PS3.3 C.11.2.1.2 and .3).

    Its ends do not depend on the picture, so that the same tissue has the same grey in every picture.

    Raises:
        ValueError: if the width is too small for the function.
    """
    center, width = (float(_first(dataset[name].value)) for name in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"WindowWidth {width:g}, wanted 1 at least")
    values = values.astype(np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _first(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else value[0]


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
