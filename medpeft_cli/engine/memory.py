"""Memory of training: its peak."""

import resource
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory of training alone: of the CUDA allocator, or of the process where there is no GPU.

    Measured from construction on; evaluation before or after is not charged to the method.
    """

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.resettable = device.type != "cuda" and _reset_resident_peak()

    def read(self) -> dict[str, object]:
        """Return {peak_bytes, measure}: bytes, and what was measured."""
        if self.device.type == "cuda":
            return {"peak_bytes": torch.cuda.max_memory_allocated(self.device), "measure": "cuda allocated"}
        if self.resettable:
            status = Path("/proc/self/status").read_text()
            kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
            return {"peak_bytes": kilobytes * 1024, "measure": "resident, whole process while training"}
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"peak_bytes": peak, "measure": "resident, whole process since its start"}


def _reset_resident_peak() -> bool:
    """Set the kernel's peak of resident memory back to the present value; False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
