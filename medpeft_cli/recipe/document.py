"""Write docs/recipes.md from the schema: `python -m medpeft_cli.recipe.document > docs/recipes.md`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from medpeft_cli.methods.method import Method
from medpeft_cli.recipe.grid import Grid, Grids
from medpeft_cli.recipe.problems import Schema, wanted
from medpeft_cli.recipe.schema import RECIPES, ClassifyRecipe, GenerateRecipe, Recipe

INTRODUCTION = """\
# Recipes

<!-- Written by `python -m medpeft_cli.recipe.document > docs/recipes.md`; a test compares. Edit the schema instead. -->

A recipe is one YAML file that says everything about one run. `medpeft finetune FILE` does it, `medpeft validate FILE…`
checks without running, and every problem is reported at once with file, line and column.

```yaml
base: base/classify-vit.yaml      # another recipe, relative to this file; this one goes on top
data: {card: isic, fraction: 0.1}
method: {name: lora, rank: 8}
```

- **Order**: base files, then the file, then `--demo`, then `--set FIELD=VALUE` (also `--set method.rank=4`,
  `--set augment.crop_scale=[0.3,1]`, `--set data.fraction=0.01`); the later wins. Maps merge; lists and values replace.
- **Another method** than the base's starts from its own defaults: the base's hyper-parameters are dropped, not merged.
- **YAML 1.2**: `1e-3` is a number; only `true` and `false` are booleans, `no`, `on` and `yes` are text. A field written
  twice is an error. Anchors, aliases and tags are not used.
- **Paths** (a card, a data folder, weights) are seen from the folder in which the command runs; only `base` is relative to
  its file.
- **Identity**: the run is named by a hash of the resolved recipe, as in `vit_base-isic-lora-f10-s0-3fa9c1d2`. The order of
  fields, comments, `data.root`, `device`, `workers`, `track`, `train.checkpoint_seconds` and all of `sample` and `evaluate` do not count,
  and of a card, a weights file or a pipeline only the last part of its path does; any other change is another run.

## Fields of every task
"""

SEARCH = """\
## Search

A recipe may have values of `train` and of its method searched before it trains, by trials on the validation split:

```yaml
search:
  trials: 8                                   # 0 = none; the same number for every method makes methods comparable
  length: 0.5                                 # a trial trains half as long as the run
  space:
    train.lr: {log: [1e-5, 1e-2]}
    train.weight_decay: {linear: [0, 0.1]}
    method.rank: {choice: [4, 8, 16]}         # of a whole number, log and linear give whole numbers
```

- **A trial** is a training as the recipe says, with seed 0; what it is worth is the best value of `train.select` on the validation
  split (the last loss, where `select: last`). The test split is scored once, by the run with the chosen values.
- **The first trial** takes the recipe's own values, where they lie in their range. Optuna's TPE sampler proposes the others, half of
  them at random. `prune: true` stops a trial, from a quarter of its steps on, when its best value is below the median of the others'.
- **Seeds share a search.** The study lies beside their runs, in `<results>/<recipe>/…-search-<cell>/`; processes that run several
  seeds at once share its trials out, also on several hosts with one file system, and so do the processes of one run (`--gpus`). A trial that was killed is gone on with from its
  checkpoint by whoever comes next; there are never more trials than the recipe says.
- **The record** has the chosen values, every trial and what all of them took ([records.md](records.md)).
- A field that is searched has no value on the command line or in a grid's matrix as well; `--set search.trials=0` trains with the
  recipe's own. `--demo` searches nothing unless it is told to: `--demo --set search.trials=4`.

The recipes of the paper search `train.lr`, eight trials for every method, model and training set.

"""

GRIDS = """\
## Grids

A grid is a file of many runs: every recipe with every combination of the matrix. `medpeft sweep plan FILE` counts them.

```yaml
recipes:
  - ../{breastus,isic}_{full,lora}.yaml       # four files, relative to this one
matrix:
  data.fraction: [0.1, 1.0]                   # any field of a recipe; a value may be a map
  seed: [0, 1, 2]
exclude:
  - {method.name: full, data.fraction: 0.1}   # 24 cells less 6
```

Or a file lists grids, `grids: [table2.yaml, table3.yaml]`; a run that two of them ask for is one run. The grids of the paper
are in `recipes/paper/`.

| Field | Wanted | Meaning |
|---|---|---|
"""


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors that complete and check YAML."""
    return TypeAdapter(Annotated[ClassifyRecipe | GenerateRecipe, Field(discriminator="task")]).json_schema()


def recipe_reference() -> str:
    """Return docs/recipes.md: the rules, a table of fields a section, a table of hyper-parameters."""
    from medpeft_cli.methods import METHODS

    parts = [INTRODUCTION, *_sections(Recipe.model_json_schema())]
    for task, recipe in RECIPES.items():
        own = [name for name in recipe.model_fields if name not in Recipe.model_fields]
        parts += [f"## Fields of `task: {task}`\n", *_sections(_only(recipe, own))]
    return "\n".join([*parts, _hyper_parameters(METHODS), SEARCH + _grids()])


def _grids() -> str:
    fields = Grid.model_json_schema()["properties"] | Grids.model_json_schema()["properties"]
    rows = [f"| `{name}` | {_cell(wanted(node))} | {_cell(node['description'])} |" for name, node in fields.items()]
    return GRIDS + "\n".join(rows) + "\n"


def _only(recipe: type[Recipe], names: list[str]) -> Schema:
    """Return the JSON schema of a recipe with some of its fields."""
    schema = recipe.model_json_schema()
    return schema | {"properties": {name: schema["properties"][name] for name in names}}


def _hyper_parameters(methods: Mapping[str, Method]) -> str:
    """Return one table: each hyper-parameter once, with the methods that take it and their defaults."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, method in methods.items():
        for field, value in method.config.model_json_schema().get("properties", {}).items():
            row = (f"`method.{field}`", wanted(value), value.get("description", ""))
            rows.setdefault(row, []).append(f"{name} `{json.dumps(value.get('default'))}`")
    lines = ["| Field | Wanted | Meaning | Methods that take it, with their default |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(map(_cell, (*row, ", ".join(takers)))) + " |" for row, takers in rows.items()]
    table = "\n".join(lines)
    return (
        f"## Hyper-parameters of the methods\n\nThey stand beside `name`; docs/methods.md explains them.\n\n{table}\n"
    )


def _sections(schema: Schema, node: Schema | None = None, name: str = "") -> list[str]:
    """Return the table of a model and then those of the models inside it."""
    node = node or schema
    about = "Overview" if not name else f"`{name}`"
    parts = [f"### {about}\n\n{node.get('description', '')}\n\n{_table(node, schema, name)}"]
    for field, value in node["properties"].items():
        if "$ref" in value:
            inner = schema["$defs"][value["$ref"].rpartition("/")[2]]
            parts += _sections(schema, inner, f"{name}.{field}".lstrip("."))
    return parts


def _table(node: Schema, schema: Schema, name: str) -> str:
    rows = ["| Field | Wanted | Default | Meaning |", "|---|---|---|---|"]
    for field, value in node["properties"].items():
        inner = schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
        meaning = value.get("description") or inner.get("description", "")
        default = "" if inner else f"`{json.dumps(value['default'])}`" if "default" in value else "needed"
        path = f"{name}.{field}".lstrip(".")
        rows.append(f"| `{path}` | {_cell(wanted(value))} | {_cell(default)} | {_cell(meaning)} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    print(recipe_reference(), end="")
