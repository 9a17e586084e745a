"""Time and energy of training."""

import ctypes
import time
from collections.abc import Callable

import torch

from medpeft_cli.engine.checkpoint import State

Joules = Callable[[], float | None]
ENERGY_MEASURE = "NVML counter of the whole GPU, training alone"


class Spending:
    """Adds what training takes to a state: only what passes between `go_on` and the next `add`.

    Args:
        state: its `seconds` and `joules` grow.
        joules: reads a counter of energy.
    """

    def __init__(self, state: State, joules: Joules):
        self._state, self._joules = state, joules
        self.go_on()

    def go_on(self) -> None:
        """Count from here."""
        self._time, self._energy = time.monotonic(), self._joules()

    def add(self) -> None:
        """Add what has passed, and count on."""
        time_before, energy_before = self._time, self._energy
        self.go_on()
        self._state.seconds += self._time - time_before
        if None in (self._state.joules, energy_before, self._energy):
            self._state.joules = None  # a part that nothing measured leaves no total
        else:
            self._state.joules += self._energy - energy_before


def energy_counter(device: torch.device) -> Joules:
    """Return what reads the joules that a GPU has taken since its driver was loaded; None where nothing counts them.

    NVML is called directly: the one function (Volta and later) needs no package, and is there where the driver is.
    """
    if device.type != "cuda":
        return lambda: None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)):
            return lambda: None
        read = nvml.nvmlDeviceGetTotalEnergyConsumption
    except (OSError, AttributeError, RuntimeError):
        return lambda: None
    return lambda: None if read(handle, ctypes.byref(millijoules)) else millijoules.value / 1000
