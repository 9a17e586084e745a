"""A grid of twenty runs in an empty folder, and records for them."""

import json

import pytest
from typer.testing import CliRunner

from medpeft_cli.cli import app
from medpeft_cli.console import console
from medpeft_cli.recipe.grid import expand
from medpeft_cli.recipe.identity import cell as cell_hash
from medpeft_cli.recipe.identity import identity
from medpeft_cli.runs.skip import run_directory

RECIPE = "task: classify\nbackbone: {name: vit_base_patch16_224.augreg_in21k}\ndata: {card: isic}\n"
GRID = "recipes: ['{full,lora}.yaml']\nmatrix: {data.fraction: [0.1, 1.0], seed: [0, 1, 2, 3, 4]}\n"


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """The cells of grid.yaml in the current folder: full and lora, each at 10 and 100 % with five seeds."""
    monkeypatch.chdir(tmp_path)
    for method in ("full", "lora"):
        (tmp_path / f"{method}.yaml").write_text(f"{RECIPE}method: {{name: {method}}}\n")
    (tmp_path / "grid.yaml").write_text(GRID)
    return expand((tmp_path / "grid.yaml").relative_to(tmp_path))


@pytest.fixture
def record(tmp_path):
    """Return record(cell, status, **fields) -> run directory with a record."""

    def write(cell, status, **fields):
        folder = run_directory(cell.path, cell.recipe, tmp_path / "results")
        folder.mkdir(parents=True)
        data = {
            "schema_version": 1, "results_revision": 1, "id": cell.run, "identity": identity(cell.recipe),
            "cell": cell_hash(cell.recipe), "status": status, "demo": False, "command": "medpeft finetune …",
            "recipe": cell.recipe.model_dump(mode="json"), "error": None,
        }  # fmt: skip
        (folder / "record.json").write_text(json.dumps(data | fields))
        return folder

    return write


@pytest.fixture
def medpeft():
    """Return medpeft(*arguments) -> the command's result, in this process."""

    def run(*arguments):
        try:
            return CliRunner().invoke(app, list(arguments))
        finally:
            console.json = console.quiet = console.verbose = False

    return run
