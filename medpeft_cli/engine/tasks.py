"""Which line a recipe takes."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from medpeft_cli.engine.failures import explained
from medpeft_cli.engine.run import refuse_untrained, trained_run
from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.problems import check
from medpeft_cli.recipe.schema import GenerateRecipe, Recipe
from medpeft_cli.recipe.source import Document, Place
from medpeft_cli.runs.record import Record

LINES = {  # task of a recipe → its module, and the function there that is the whole line
    "classify": ("medpeft_cli.engine.classify", "run_classification"),
    "generate": ("medpeft_cli.engine.text_to_image", "run_text_to_image"),
}
PROBE_LATENTS = 8  # side of the latents on which a U-Net is tried


def run_recipe(loaded: Loaded, results: Path, command: str, *, evaluate: bool = True) -> Path:
    """Fine-tune as a recipe says, score the test split, and return the run directory; see `run_classification`."""
    module, line = LINES[loaded.recipe.task]
    run_dir: Path = getattr(import_module(module), line)(loaded, results, command, evaluate=evaluate)
    return run_dir


def dry_run(recipe: Recipe, *, evaluate: bool = True, memory: bool = False) -> dict[str, Any]:
    """Build everything, check that every trained tensor is reached, train nothing; return what the record would say.

    Args:
        recipe: of any task.
        evaluate: check what scoring the test split needs too.
        memory: take two steps, keep nothing of them, and tell the peak of memory too.

    Raises:
        RecipeError, DataError: as the parts raise them.
        RunError: if memory does not suffice.
    """
    from medpeft_cli.engine.assembly import describe, facts
    from medpeft_cli.methods.adapt import probe

    with explained(recipe):
        assembly = import_module(LINES[recipe.task][0]).assemble(recipe)
        describe(assembly)
        if isinstance(recipe, GenerateRecipe) and evaluate:
            from medpeft_cli.engine.text_to_image import refuse_unscorable

            refuse_unscorable(recipe, assembly.manifest)
        probe(assembly.adapted, PROBE_LATENTS if assembly.adapted.family == "unet" else assembly.input.size)
        found = facts(assembly)
        if memory:
            from medpeft_cli.engine.forecast import forecast

            ahead = forecast(assembly)
            del assembly  # and with it the parts of a pipeline that are not trained
            found["memory"] = ahead.measure()
        return found


def evaluate_run(run_dir: Path, weights: Path | None = None, **changes: Any) -> Record:
    """Score the test split of a trained run.

    Args:
        run_dir: a run that `finetune` has trained.
        weights: where the pre-trained weights are now; None = where they were.
        changes: fields of the recipe's `evaluate` to use instead, such as bootstrap=5000.

    Raises:
        RecipeError: if a field is none of the task's, or its value is not what it takes.
        DataError: if the run is not trained yet, or its data or weights are not those it was trained with.
    """
    with trained_run(run_dir) as record:
        recipe = _scored_otherwise(record.recipe, changes)
        import_module(LINES[recipe.task][0]).score_test(record, recipe, weights)
    return record


def evaluate_folders(run_dir: Path, folders: Sequence[Path], **changes: Any) -> dict[str, Any]:
    """Compare other pictures with the test pictures of a text-to-image run; its record stays as it is.

    Args:
        run_dir: a run that `finetune` has trained.
        folders: of the pictures, such as those of the untuned pipeline; several (shards) count as one.
        changes: fields of the recipe's `evaluate` to use instead.

    Returns:
        Scores and protocol, JSON-ready.

    Raises:
        RecipeError: as `evaluate_run`, or if the run is of another task.
        DataError: if the run is not trained yet, its data has changed, or pictures cannot be read.
    """
    record = Record.read(run_dir)
    if record.task != "generate":
        raise RecipeError(f"evaluate: --generated is not for runs of task {record.task}")
    refuse_untrained(record)
    from medpeft_cli.engine.text_to_image import score_folders

    recipe = _scored_otherwise(record.recipe, changes)
    with explained(recipe):
        return score_folders(record, recipe, folders)


def _scored_otherwise(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Return a recipe with other fields of `evaluate`, checked."""
    if strange := sorted(changes.keys() - type(recipe.evaluate).model_fields.keys()):
        raise RecipeError(f"evaluate: {strange[0]} is not for runs of task {recipe.task}")
    document = Document({}, places={(): Place("evaluate")})
    if (scoring := check(type(recipe.evaluate), recipe.evaluate.model_dump() | changes, document)) is None:
        raise RecipeError("\n".join(map(str, document.problems)))
    return recipe.model_copy(update={"evaluate": scoring})
