"""docs/recipes.md says what the schema says."""

from pathlib import Path

import pytest

from medpeft_cli.methods import METHODS
from medpeft_cli.recipe.document import recipe_reference, recipe_schema
from medpeft_cli.recipe.load import leaves
from medpeft_cli.recipe.schema import RECIPES

DOCUMENT = Path(__file__).parents[2] / "docs/recipes.md"


def test_the_reference_is_up_to_date():
    assert DOCUMENT.read_text() == recipe_reference(), "run python -m medpeft_cli.recipe.document > docs/recipes.md"


@pytest.mark.parametrize(("task", "model"), [("classify", "backbone"), ("generate", "pipeline")])
def test_every_field_is_explained(task, model):
    common, *own = recipe_reference().split("\n## Fields of `task: ")
    (own,) = [part for part in own if part.startswith(task)]
    values = {"task": task, "data": {"card": "x"}, model: {"name": "x"}, "method": {"name": "x"}}
    fields = [".".join(key) for key, _ in leaves(RECIPES[task].model_validate(values).model_dump(mode="json"))]
    assert len(fields) > 40
    for field in fields:
        (row,) = [line for line in (common + own).splitlines() if line.startswith(f"| `{field}` |")]
        assert len(row.split("|")[4].strip()) > 3, field


def test_every_hyper_parameter_names_its_methods():
    lines = recipe_reference().splitlines()
    for name, method in METHODS.items():
        for field in method.config.model_fields:
            rows = [line for line in lines if line.startswith(f"| `method.{field}` |")]
            assert sum(f" {name} `" in row for row in rows) == 1, (name, field)


def test_the_schema_for_editors_knows_every_section():
    schema = recipe_schema()
    recipes = [schema["$defs"][option["$ref"].rpartition("/")[2]]["properties"] for option in schema["oneOf"]]
    assert {"data", "backbone", "method", "train", "augment", "evaluate"} <= set(recipes[0])
    assert {"data", "pipeline", "method", "train", "sample", "evaluate"} <= set(recipes[1])
