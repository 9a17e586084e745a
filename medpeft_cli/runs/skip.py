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
    weights = loaded.recipe.weights_file
    if weights.is_file() and _is_another(weights, record.data.get("weights", {})):
        raise _changed(record, f"the weights file {weights}")
    return run_dir


def file_facts(path: Path) -> dict[str, Any]:
    """Return what a record says of a weights file: hash, bytes and the time of its last change in ns; None where there is none."""
    if not path.is_file():
        return {"file_sha256": None}
    status = path.stat()
    return {"file_sha256": sha256_file(path), "file_bytes": status.st_size, "file_changed_ns": status.st_mtime_ns}


def _is_another(path: Path, facts: dict[str, Any]) -> bool:
    """Tell whether a file is not the one of a record; of gigabytes the hash takes seconds, so an untouched file is believed."""
    status, before = path.stat(), facts.get("file_sha256")
    if before is None or (status.st_size, status.st_mtime_ns) == (
        facts.get("file_bytes"),
        facts.get("file_changed_ns"),
    ):
        return False
    return sha256_file(path) != before


def _scoring(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that decide the scores of a trained model."""
    values = recipe.model_dump()
    return {
        section: {field: value for field, value in values.get(section, {}).items() if field != "batch_size"}
        for section in ("sample", "evaluate")
    }


def refuse_changed_inputs(record: Record, manifest_sha256: str, weights_sha256: str | None = None) -> None:
    """Raise DataError if a record was made with another version of its dataset or of its pre-trained weights."""
    searched = record.data.get("search", {}).get("inputs", {})
    if {record.data.get("data", {}).get("manifest_sha256"), searched.get("manifest_sha256")} - {None, manifest_sha256}:
        raise _changed(record, "the dataset")
    before = {record.data.get("weights", {}).get("sha256"), searched.get("weights_sha256")}
    if weights_sha256 and before - {None, weights_sha256}:
        raise _changed(record, "the pre-trained weights")


def _changed(record: Record, what: str) -> DataError:
    return DataError(
        f"{record.run_dir}: {what} has changed since this run was made",
        "give the old one, or use another --results folder for the new one",
    )
