"""Pictures for training: from the memory-mapped store to uint8 batches, with no decoding and no torch call per picture."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medpeft_cli.data.decode import FILTERS
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.recipe.schema import Augment

if TYPE_CHECKING:
    from torch import Tensor

AHEAD = 2  # batches prepared before they are asked for
CROP_ATTEMPTS = 10  # as torchvision and timm

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class InputSpec:
    """What a backbone reads: the resolved data configuration.

    Attributes:
        size: side S of the square input, pixels.
        mean: per RGB channel, of values in 0–1.
        std: per RGB channel, of values in 0–1.
        interpolation: filter of every resize: nearest, bilinear, bicubic or lanczos, antialiased.
        crop_pct: centre crop at evaluation, fraction of the resized short side.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float


class ImageStore:
    """The pictures of a prepared dataset, memory-mapped: uint8 RGB (H, W, 3) by index."""

    def __init__(self, manifest: Manifest):
        pieces = manifest.info["pieces"]
        self._files = [manifest.root / "images" / f"{name}.bin" for name, _ in pieces]
        self._maps: dict[int, mmap] = {}  # made when first read
        starts = np.cumsum([0, *(size for _, size in pieces)])
        piece = np.searchsorted(starts, manifest.offsets, side="right") - 1
        self._piece = piece.tolist()
        self._shapes = manifest.shapes.tolist()
        self._offsets = (manifest.offsets - starts[piece]).tolist()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._offsets)

    def stored(self, index: int) -> np.ndarray:
        """Return the picture as stored, without a copy: uint8 (H, W) grey or (H, W, 3) RGB."""
        height, width, channels = self._shapes[index]
        start, number = self._offsets[index], self._piece[index]
        if number not in self._maps:
            with self._files[number].open("rb") as file:
                self._maps[number] = mmap(file.fileno(), 0, access=ACCESS_READ)
        flat = np.frombuffer(self._maps[number], np.uint8, height * width * channels, start)
        return flat.reshape((height, width) if channels == 1 else (height, width, 3))

    def release(self) -> None:
        """Let go of the memory of what was read; otherwise a process grows by the whole dataset. Pictures stay readable."""
        for mapped in list(self._maps.values()):
            mapped.madvise(MADV_DONTNEED)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the picture as RGB, uint8 (H, W, 3); grey is repeated."""
        pixels = self.stored(index)
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def eval_image(pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Resize the short side to floor(size / crop_pct) and crop the centre, as timm does, in one step.

    Shape:
        pixels: uint8 (H, W) or (H, W, 3) → uint8 (3, S, S); grey is repeated.
    """
    return _channels_first(_resize(pixels, _centre_box(pixels, spec), spec))


def train_image(pixels: np.ndarray, spec: InputSpec, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Crop, flip and change brightness and contrast at random.

    The crop is a box of random area and aspect ratio (Szegedy et al. 2015, arXiv:1409.4842, as in torchvision), resized in
    one antialiased step. Brightness multiplies by 1 + u, contrast scales around the picture's mean by 1 + v.

    Shape:
        pixels: uint8 (H, W) or (H, W, 3) → uint8 (3, S, S); grey is repeated.
    """
    box = _centre_box(pixels, spec) if augment.crop_scale is None else _random_box(pixels, augment, rng)
    image = _resize(pixels, box, spec)
    if rng.random() < augment.horizontal_flip:
        image = image[:, ::-1]
    if rng.random() < augment.vertical_flip:
        image = image[::-1]
    if augment.brightness or augment.contrast:
        brightness = 1 + rng.uniform(-augment.brightness, augment.brightness)
        contrast = 1 + rng.uniform(-augment.contrast, augment.contrast)
        levels = np.arange(256) * brightness
        middle = image.mean() * brightness
        levels = (levels - middle) * contrast + middle
        image = np.take(np.rint(np.clip(levels, 0, 255)).astype(np.uint8), image)  # one table look-up per value
    return _channels_first(image)


def epoch_order(indices: np.ndarray, labels: np.ndarray, seed: int, epoch: int, sampling: str) -> np.ndarray:
    """Return the order in which one epoch visits the training pictures; a function of seed and epoch.

    Args:
        indices: training indices (N,).
        labels: int64, labels of the whole dataset; labels[indices] are those of the training pictures.
        seed: of the recipe.
        epoch: 0, 1, ….
        sampling: "shuffle" = each once; "balanced" = N visits, each class equally often (within one), rare ones repeated.

    Returns:
        int64 (N,).
    """
    rng = np.random.Generator(np.random.Philox(key=[seed_of(seed, "order"), epoch]))
    if sampling == "shuffle":
        return rng.permutation(indices)
    mine = labels[indices]
    present = rng.permutation(np.unique(mine))  # those that come first get the remainder
    quotas = np.full(len(present), len(indices) // len(present))
    quotas[: len(indices) % len(present)] += 1
    visits = []
    for label, quota in zip(present, quotas, strict=True):
        members = indices[mine == label]
        rounds = [rng.permutation(members) for _ in range(math.ceil(quota / len(members)))]
        visits.append(np.concatenate(rounds)[:quota])
    return rng.permutation(np.concatenate(visits))


class Batches:
    """One pass over given batches; threads prepare pictures ahead of the consumer, in order.

    The pictures do not depend on the cut into batches, threads or `start`: the draw is a function of (seed, epoch, index),
    and of the visit where balanced sampling visits a picture more than once.

    Args:
        store: the pictures.
        labels: int64, labels of the whole dataset.
        spec: what the backbone reads.
        augment: random changes; None = evaluation.
        batches: indices of each batch.
        seed: of the recipe.
        epoch: 0, 1, ….
        workers: threads; at least one is used.
        start: batches to skip, without reading them.
        stride: of those that follow every so many-th is read, from the first on.

    Yields:
        images uint8 torch (B, 3, S, S) with channels last in memory, labels int64 torch (B,).
    """

    def __init__(
        self,
        store: ImageStore,
        labels: np.ndarray,
        spec: InputSpec,
        augment: Augment | None,
        batches: Sequence[np.ndarray],
        seed: int,
        epoch: int,
        workers: int,
        start: int = 0,
        stride: int = 1,
    ):
        self.store, self.labels, self.spec, self.augment = store, labels, spec, augment
        self.batches = batches[start::stride]
        self.visits = visits_of(batches)[start::stride]
        self.key = seed_of(seed, "augment")
        self.epoch, self.workers = epoch, max(1, workers)

    def __len__(self) -> int:
        """Return the number of batches that are left."""
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple["Tensor", "Tensor"]]:
        """Yield (images, labels) in order; leaving early ends the threads."""
        import torch

        pool = ThreadPoolExecutor(self.workers)
        pinned = torch.cuda.is_initialized()  # this process computes on a GPU, which copies such memory by itself
        waiting: deque[tuple[Tensor, np.ndarray, list[Future]]] = deque()
        todo = zip(self.batches, self.visits, strict=True)
        try:
            while True:
                while len(waiting) <= AHEAD and (share := next(todo, None)) is not None:
                    indices, visits = share
                    shape = (len(indices), self.spec.size, self.spec.size, 3)
                    images = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned).permute(0, 3, 1, 2)
                    parts = np.array_split(np.arange(len(indices)), min(self.workers, len(indices)) or 1)
                    filling = [pool.submit(self._fill, images.numpy(), indices, visits, part) for part in parts]
                    waiting.append((images, indices, filling))
                if not waiting:
                    return
                images, indices, filling = waiting.popleft()
                for part in filling:
                    part.result()
                self.store.release()
                labels = torch.from_numpy(self.labels[indices])
                yield images, labels.pin_memory() if pinned else labels
        finally:
            pool.shutdown(cancel_futures=True)

    def _fill(self, images: np.ndarray, indices: np.ndarray, visits: np.ndarray, part: np.ndarray) -> None:
        for row in part:
            index = int(indices[row])
            pixels = self.store.stored(index)
            if self.augment is None:
                images[row] = eval_image(pixels, self.spec)
            else:
                draw, visit = draw_of(self.epoch, int(visits[row]), self.augment.views)
                rng = np.random.Generator(
                    np.random.Philox(key=[self.key, draw << 32 | index], counter=[0, 0, 0, visit])
                )
                images[row] = train_image(pixels, self.spec, self.augment, rng)


def draw_of(epoch: int, visit: int, views: int | None) -> tuple[int, int]:
    """Return what a picture's random change depends on beside the seed and the picture.

    Args:
        epoch: 0, 1, ….
        visit: how often the epoch has shown the picture before.
        views: versions of each picture that there are, shown in turn; None = a new one each time.

    Returns:
        Epoch and visit, or the number of the version and 0.
    """
    return (epoch, visit) if views is None else ((epoch + visit) % views, 0)


def visits_of(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return, for each place of each batch, how often the pass has visited that picture before."""
    if not batches:
        return []
    order = np.concatenate(batches)
    _, picture, count = np.unique(order, return_inverse=True, return_counts=True)
    visits = np.empty(len(order), dtype=np.int64)
    visits[np.argsort(picture, kind="stable")] = np.concatenate([np.arange(times) for times in count])
    return np.split(visits, np.cumsum([len(batch) for batch in batches])[:-1])


def _centre_box(pixels: np.ndarray, spec: InputSpec) -> Box:
    """Return the part of the picture that timm's resize and centre crop keep."""
    height, width = pixels.shape[:2]
    short = math.floor(spec.size / spec.crop_pct)
    resized = [
        short if side <= min(height, width) else int(short * side / min(height, width)) for side in (width, height)
    ]
    left, top = (round((side - spec.size) / 2) for side in resized)
    across, down = width / resized[0], height / resized[1]
    return left * across, top * down, (left + spec.size) * across, (top + spec.size) * down


def _random_box(pixels: np.ndarray, augment: Augment, rng: np.random.Generator) -> Box:
    height, width = pixels.shape[:2]
    scale = augment.crop_scale or (1.0, 1.0)
    low, high = map(math.log, augment.crop_ratio)
    for _ in range(CROP_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
            return left, top, left + across, top + down
    ratio = min(
        max(width / height, augment.crop_ratio[0]), augment.crop_ratio[1]
    )  # the largest centred box that is allowed
    across, down = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def _resize(pixels: np.ndarray, box: Box, spec: InputSpec) -> np.ndarray:
    """Return the box as uint8 (S, S) or (S, S, 3)."""
    left, top, right, bottom = box
    if right - left == bottom - top == spec.size and left == int(left) and top == int(top):
        return pixels[int(top) : int(bottom), int(left) : int(right)]  # already at that scale
    height, width = pixels.shape[:2]
    inside = (left, top, min(right, float(width)), min(bottom, float(height)))  # rounding may pass the edge by 1e-13
    image = Image.fromarray(pixels).resize((spec.size, spec.size), FILTERS[spec.interpolation], box=inside)
    return np.asarray(image)


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (3, *image.shape)) if image.ndim == 2 else image.transpose(2, 0, 1)
