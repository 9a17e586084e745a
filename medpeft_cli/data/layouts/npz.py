"""Arrays of pictures in one .npz file."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from medpeft_cli.data.card import SPLITS, Card
from medpeft_cli.data.forms import Npz
from medpeft_cli.data.layouts.sample import Listing, Sample
from medpeft_cli.errors import DataError


def list_npz(source: Path, layout: Npz, card: Card) -> Listing:
    """List an .npz of the MedMNIST kind: `<split>_images` uint8 (N, H, W[, 3]), `<split>_labels` integers (N,) or (N, 1).

    Raises:
        DataError: if the file is missing, damaged or holds Python objects, or arrays and classes do not fit.
    """
    path, file = (source, source.name) if source.is_file() else (source / layout.file, layout.file)
    _arrays.cache_clear()  # the file may have changed since an earlier call
    arrays = _arrays(path)
    samples = []
    for split in SPLITS:
        if f"{split}_images" not in arrays:
            continue
        pixels, labels = arrays[f"{split}_images"], arrays.get(f"{split}_labels")
        place = f"{path}: {split}"
        if labels is None or labels.size != len(pixels) or labels.dtype.kind not in "iu":
            got = "none" if labels is None else f"{labels.dtype} {labels.shape}"
            raise DataError(f"{place}_labels: got {got}, wanted one whole number per picture of {len(pixels)}")
        if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] in (1, 3))):
            raise DataError(
                f"{place}_images: got {pixels.dtype} {pixels.shape}, wanted uint8 (N, H, W) or (N, H, W, 3)"
            )
        numbers = labels.reshape(-1)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(card.classes)):
            got = f"{numbers.min()} to {numbers.max()}"
            raise DataError(f"{place}_labels: got {got}, wanted 0 to {len(card.classes) - 1} for the card's classes")
        for row, number in enumerate(numbers):
            name = f"{split}/{row}"
            label = card.classes[int(number)]
            samples.append(Sample(name, f"{file}#{name}", label, name, split if card.official else None))
    if not samples:
        raise DataError(f"{path}: got arrays {', '.join(arrays) or 'none'}, wanted train_images and train_labels")
    return Listing(samples, [], [], partial(_read_row, path))


def _read_row(path: Path, sample: Sample) -> np.ndarray:
    split, _, row = sample.id.partition("/")
    return _arrays(path)[f"{split}_images"][int(row)]


@lru_cache(maxsize=1)  # each process of prepare reads the file once
def _arrays(path: Path) -> dict[str, np.ndarray]:
    with open_arrays(path) as archive:
        return {name: archive[name] for name in archive.files if name.startswith(tuple(f"{s}_" for s in SPLITS))}


@contextmanager
def open_arrays(path: Path) -> Iterator["np.lib.npyio.NpzFile"]:
    """Yield the archive of an .npz; Python objects in it are not read.

    Raises:
        DataError: if it is missing or damaged, or what is asked of it in the block cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", "give the folder of the .npz as --source")
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        pickled = "allow_pickle" in str(error)  # numpy's advice is to allow it
        reason = "it holds Python objects, or is no .npz" if pickled else " ".join(str(error).split())
        raise DataError(f"{path}: cannot read the arrays: {reason}") from None
