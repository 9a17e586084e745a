"""Everything a run needs to go on as if it had never stopped, written atomically."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medpeft_cli.errors import DataError, RunError
from medpeft_cli.files import atomic_path


@dataclass
class State:
    """Where training stands. Losses and history are plain numbers, so that a resumed run reports the same ones."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished optimiser steps of the present epoch
    losses: list[float] = field(default_factory=list)  # of the present epoch, one per step
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per finished epoch
    best_epoch: int | None = None
    best_step: int | None = None  # optimiser steps done by then
    best_value: float | None = None
    seconds: float = 0.0  # spent training, over all starts
    joules: float | None = None  # taken in those seconds; None where a part of them was not measured
    images: int = 0  # trained on in those seconds
    peak_bytes: int = 0


class Checkpoint:
    """The folder `checkpoint/` of a run: `last.pt`, and the best epoch's tensors.

    The best tensors are written once per improvement under the epoch's number, and `last.pt` names the one that counts,
    so that a crash between the two writes leaves a consistent pair.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, state: State, **content: Any) -> None:
        """Write the whole state; the previous one stays valid until the new one is complete."""
        content["state"] = asdict(state)
        with atomic_path(self.folder / "last.pt") as temporary:
            _guarded(self.folder, lambda: torch.save(content, temporary))
        for old in self.folder.glob("best-*.safetensors"):
            if old != self._best(state.best_epoch):
                old.unlink(missing_ok=True)

    def save_best(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        """Write the tensors of the best epoch so far."""
        with atomic_path(self._best(epoch)) as temporary:
            _guarded(self.folder, lambda: save_file(tensors, temporary))

    def load(self) -> tuple[State, dict[str, Any]] | None:
        """Return the state and the rest that was saved, or None where nothing was saved.

        Raises:
            DataError: if the checkpoint is damaged.
        """
        path = self.folder / "last.pt"
        if not self.exists():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            return State(**content.pop("state")), content
        except Exception as error:
            raise DataError(
                f"{path}: damaged checkpoint: {error}", f"delete {self.folder} to start this run again"
            ) from error

    def load_best(self, state: State) -> dict[str, Tensor]:
        """Return the tensors of the best epoch."""
        path = self._best(state.best_epoch)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path}: damaged checkpoint: {error}", f"delete {self.folder} to start this run again"
            ) from error

    def exists(self) -> bool:
        """Tell whether a state was saved."""
        return (self.folder / "last.pt").is_file()

    def remove(self) -> None:
        """Delete the folder of a finished run."""
        for path in self.folder.glob("*"):
            path.unlink(missing_ok=True)
        if self.folder.is_dir():
            self.folder.rmdir()

    def _best(self, epoch: int | None) -> Path:
        return self.folder / f"best-{epoch}.safetensors"


def _guarded(folder: Path, write) -> None:  # noqa: ANN001
    """Turn the writers' own errors on a full disk into ours; OSError is left to `atomic_path`."""
    try:
        write()
    except (RuntimeError, SafetensorError) as error:
        raise RunError(
            f"{folder}: the checkpoint cannot be written: {str(error).splitlines()[0]}",
            "free space; the last complete checkpoint is kept, and the same command goes on from it",
        ) from error
