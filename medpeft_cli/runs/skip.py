"""Tell a finished run from its record alone, before torch is imported."""

from pathlib import Path
from typing import Any

from medpeft_cli.errors import DataError
from medpeft_cli.files import read_json, sha256_file
from medpeft_cli.recipe.identity import run_id
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import Recipe
from medpeft_cli.runs.record import Record


def run_directory(path: Path, recipe: Recipe, results: Path) -> Path:
    """Return results/<stem of the recipe's file>/<run id>."""
    return results / path.stem / run_id(recipe)


def finished_run(loaded: Loaded, results: Path, *, evaluate: bool) -> Path | None:
    """Return the run directory if there is nothing left to do in it, else None: other `sample` or `evaluate` score it anew.

    Raises:
        DataError: if the record is damaged, or dataset or weights file are not those the run was made with.
    """
    run_dir = run_directory(loaded.path, loaded.recipe, results)
    if not (run_dir / "record.json").is_file():
        return None
    record = Record.read(run_dir)
    scored = record.data["status"] == "finished"
    if evaluate and (not scored or _scoring(record.recipe) != _scoring(loaded.recipe)):
        return None
    if not scored and record.data["status"] != "trained":
        return None
    description = loaded.recipe.data.folder / "dataset.json"
    if description.is_file():
        refuse_changed_inputs(record, read_json(description).get("sha256", ""))
    weights, before = loaded.recipe.weights_file, record.data.get("weights", {}).get("file_sha256")
    if before and weights.is_file() and sha256_file(weights) != before:
        raise _changed(record, f"the weights file {weights}")
    return run_dir


def _scoring(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that decide the scores of a trained model."""
    values = recipe.model_dump()
    return {
        section: {field: value for field, value in values.get(section, {}).items() if field != "batch_size"}
        for section in ("sample", "evaluate")
    }


def refuse_changed_inputs(record: Record, manifest_sha256: str, weights_sha256: str | None = None) -> None:
    """Raise DataError if a record was made with another version of its dataset or of its pre-trained weights."""
    if record.data.get("data", {}).get("manifest_sha256") not in (None, manifest_sha256):
        raise _changed(record, "the dataset")
    if weights_sha256 and record.data.get("weights", {}).get("sha256") not in (None, weights_sha256):
        raise _changed(record, "the pre-trained weights")


def _changed(record: Record, what: str) -> DataError:
    return DataError(
        f"{record.run_dir}: {what} has changed since this run was made",
        "give the old one, or use another --results folder for the new one",
    )
