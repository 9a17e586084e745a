"""The record of a run: one folder and one record.json, no database."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medpeft_cli.errors import DataError
from medpeft_cli.files import read_json, write_json, write_text
from medpeft_cli.recipe.identity import cell, identity, run_id
from medpeft_cli.recipe.load import Loaded, dump_recipe
from medpeft_cli.recipe.schema import RECIPES, Recipe

SCHEMA_VERSION = 1
RESULTS_REVISION = 1  # raised by every change that changes results
ESSENTIAL = {"id", "identity", "cell", "status", "demo", "command", "recipe"}
REPAIR = "the record is damaged or of another medpeft; run the recipe again into another --results folder"


def now() -> str:
    """Return the present time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record:
    """The record of one run: a dictionary (docs/records.md) that is rewritten whole at each `save`.

    Attributes:
        run_dir: folder of the run.
        data: the record.
        follow: called with each entry of the history as training makes it; set by a tracker.
    """

    follow: Callable[[dict[str, Any]], None] | None = None

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
        if missing := ESSENTIAL - data.keys():
            raise DataError(f"{path}: damaged record: no {', '.join(sorted(missing))}", REPAIR)
        return cls(run_dir, data)

    @classmethod
    def open(cls, run_dir: Path, loaded: Loaded, command: str) -> "Record":
        """Return the record of a run directory, a new one if it has none."""
        recipe = loaded.recipe
        write_text(run_dir / "recipe.yaml", dump_recipe(recipe))
        if (run_dir / "record.json").is_file():
            record = cls.read(run_dir)
            record.data["recipe"] = recipe.model_dump(mode="json")  # device, paths and scoring may be others by now
            return record
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
        return record

    @property
    def task(self) -> str:
        """Task of the recipe: classify or generate.

        Raises:
            DataError: if it is none that this medpeft knows.
        """
        recipe = self.data["recipe"]
        if not isinstance(recipe, dict) or recipe.get("task") not in RECIPES:
            raise DataError(f"{self.run_dir / 'record.json'}: recipe.task: wanted one of {', '.join(RECIPES)}", REPAIR)
        return str(recipe["task"])

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            DataError: if it is not one that this medpeft knows.
        """
        try:
            return RECIPES[self.task].model_validate(self.data["recipe"])
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{self.run_dir / 'record.json'}: recipe.{place}: {first['msg'].lower()}", REPAIR
            ) from error

    def save(self, **changes: Any) -> None:
        """Merge `changes` into the record and write it."""
        self.data |= changes | {"updated": now()}
        write_json(self.run_dir / "record.json", self.data)


class Copy(Record):
    """What the other processes of a run know of its record, which process 0 alone writes."""

    def save(self, **changes: Any) -> None:
        """Merge `changes`."""
        self.data |= changes
