"""One recipe seed, one independent seed per purpose: a new consumer does not shift the others."""

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(seed: int, purpose: str) -> int:
    """Return the seed of one purpose ("init", "order", "augment", "dropout", …), 0 ≤ value < 2⁶³."""
    return (seed * 1_000_003 + zlib.crc32(purpose.encode())) % 2**63


def draw_from(seed: int, device: "torch.device") -> None:
    """Let random numbers on the CPU and on a device begin anew, as `torch.manual_seed` does.

    That function also tells every kind of device that is not there, which takes half a millisecond.
    """
    import torch

    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
