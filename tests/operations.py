"""What torch is asked to compute, operation by operation."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)  # .item(), bool(), x[mask]


class Operations(TorchDispatchMode):
    """Counts the operations in its block; `counts` has them by operator."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.counts[operation] += 1
        return operation(*args, **(kwargs or {}))

    @property
    def reads(self):
        """How often a value came to the CPU: a GPU would be waited for, until all that was asked of it is done."""
        return sum(self.counts[operation] for operation in READS)
