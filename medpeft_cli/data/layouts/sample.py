"""What a layout finds: one sample a picture, and what it left out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of the source.

    Attributes:
        id: unique name.
        file: path relative to the source, posix; `x.npz#train/17` within an .npz.
        label: class name; for a card of task multilabel or text any number of them, joined by | in the card's order.
        group: what must not straddle two splits; the id where nothing is known.
        split: official split, or None.
        attributes: further columns of the manifest.
        text: report or caption; "" where there is none.
    """

    id: str
    file: str
    label: str
    group: str
    split: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Listing:
    """What a layout found.

    Attributes:
        samples: the pictures, sorted by id.
        left_out: (file, reason) of what is left out.
        notes: remarks, one line each.
        read: returns the picture of a sample, uint8 (H, W) or (H, W, 3), or Pillow's L or RGB; pickles, so that processes may share the work.
        texts: facts about the texts for dataset.json, {} where there are none.
    """

    samples: list[Sample]
    left_out: list[tuple[str, str]]
    notes: list[str]
    read: Callable[[Sample], np.ndarray | Image.Image]
    texts: dict[str, Any] = field(default_factory=dict)
