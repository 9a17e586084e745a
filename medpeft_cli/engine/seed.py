"""One recipe seed, one independent seed per purpose: a new consumer does not shift the others."""

import zlib


def seed_of(seed: int, purpose: str) -> int:
    """Return the seed of one purpose ("init", "order", "augment", "dropout", …), 0 ≤ value < 2⁶³."""
    return (seed * 1_000_003 + zlib.crc32(purpose.encode())) % 2**63
