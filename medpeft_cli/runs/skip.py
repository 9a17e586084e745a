"""Tell a finished run from its record alone, before torch is imported."""

from pathlib import Path

from medpeft_cli.errors import DataError
from medpeft_cli.files import read_json
from medpeft_cli.recipe.identity import run_id
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import ClassifyRecipe
from medpeft_cli.runs.record import Record


def run_directory(loaded: Loaded, results: Path) -> Path:
    """Return results/<recipe stem>/<run id>."""
    return results / loaded.path.stem / run_id(loaded.recipe)


def dataset_root(recipe: ClassifyRecipe) -> Path:
    """Return the prepared dataset of a recipe: data.root, or data/<card>."""
    return recipe.data.root or Path("data") / Path(recipe.data.card).stem


def finished_run(loaded: Loaded, results: Path, *, evaluate: bool) -> Path | None:
    """Return the run directory if there is nothing left to do in it, else None.

    Raises:
        DataError: if the record is damaged, or the dataset is not the one the run was made with.
    """
    run_dir = run_directory(loaded, results)
    if not (run_dir / "record.json").is_file():
        return None
    record = Record.read(run_dir)
    if record.data["status"] != "finished" and (evaluate or record.data["status"] != "trained"):
        return None
    description = dataset_root(loaded.recipe) / "dataset.json"
    if description.is_file():
        refuse_changed_data(record, description.parent, read_json(description).get("sha256", ""))
    return run_dir


def refuse_changed_data(record: Record, root: Path, sha256: str) -> None:
    """Raise DataError if a record was made with another version of a dataset."""
    before = record.data.get("data", {}).get("manifest_sha256")
    if before not in (None, sha256):
        raise DataError(
            f"{root}: the dataset has changed since {record.run_dir} was made: sha256 {sha256[:12]}, wanted {before[:12]}",
            "point data.root at the old dataset, or use another --results folder for the new one",
        )
