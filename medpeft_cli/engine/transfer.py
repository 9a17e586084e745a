"""Batches on their way to the device."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def on_device(batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Yield every batch on the device.

    On CUDA a batch is copied on a stream of its own. The loop is ahead of the device, so that the copy goes on while the device
    still computes with the batch before; from pinned memory, as `Batches` takes it, nothing waits for it.
    """
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        with torch.cuda.stream(side):
            moved = tuple(each.to(device, non_blocking=side is not None) for each in batch)
        if side is not None:
            computing = torch.cuda.current_stream(device)
            computing.wait_stream(side)
            for each in moved:
                each.record_stream(computing)  # its memory is not given to the next copy before it was read
        yield moved
