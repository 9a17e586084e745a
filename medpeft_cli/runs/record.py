"""The record of a run: one folder and one record.json, no database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medpeft_cli.errors import DataError, RunError
from medpeft_cli.files import read_json, unwritable, write_json, write_text
from medpeft_cli.recipe.identity import cell, identity, run_id
from medpeft_cli.recipe.load import Loaded, dump_recipe

SCHEMA_VERSION = 1
RESULTS_REVISION = 1  # raised by every change that changes results


def now() -> str:
    """Return the present time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record:
    """The record of one run: a dictionary (docs/records.md) that is rewritten whole at each `save`."""

    def __init__(self, run_dir: Path, data: dict[str, Any]):
        self.run_dir = run_dir
        self.data = data

    @classmethod
    def read(cls, run_dir: Path) -> "Record":
        """Read the record of a run directory.

        Raises:
            DataError: if there is none, it is damaged, or it is of another schema version.
        """
        path = run_dir / "record.json"
        if not path.is_file():
            raise DataError(
                f"{run_dir}: no record.json; not a run directory", "give the folder that `medpeft finetune` printed"
            )
        data = read_json(path)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema version {version!r}, wanted {SCHEMA_VERSION}", "it was written by another medpeft"
            )
        return cls(run_dir, data)

    @classmethod
    def open(cls, run_dir: Path, loaded: Loaded, command: str) -> "Record":
        """Return the record of a run directory, a new one if it has none."""
        if (run_dir / "record.json").is_file():
            return cls.read(run_dir)
        recipe = loaded.recipe
        record = cls(run_dir, {
            "schema_version": SCHEMA_VERSION,
            "results_revision": RESULTS_REVISION,
            "id": run_id(recipe),
            "identity": identity(recipe),
            "cell": cell(recipe),
            "status": "running",
            "demo": recipe.demo,
            "created": now(),
            "command": command,
            "recipe_file": str(loaded.path),
            "recipe": recipe.model_dump(mode="json"),
            "error": None,
        })  # fmt: skip
        record.save()
        write_text(run_dir / "recipe.yaml", dump_recipe(recipe))
        return record

    def save(self, **changes: Any) -> None:
        """Merge `changes` into the record and write it."""
        self.data |= changes | {"updated": now()}
        write_json(self.run_dir / "record.json", self.data)


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run directory against a second process; the system frees the lock when the process dies.

    Raises:
        RunError: if another process holds it.
    """
    import fcntl

    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / "lock").open("a+")  # noqa: SIM115
    except OSError as error:
        raise unwritable(run_dir, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{run_dir}: another process is working on this run", "wait for it, or stop it first"
            ) from error
        yield
