"""What a recipe may say of a search: which fields, between which values, how many trials."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from medpeft_cli.recipe.problems import check, one_of, place_of
from medpeft_cli.recipe.source import Document, Problem, dotted, shorten
from medpeft_cli.recipe.strict import Strict

if TYPE_CHECKING:
    from medpeft_cli.recipe.schema import Recipe

R = TypeVar("R", bound="Recipe")
SPACE = ("search", "space")
SHARED = {  # fields of train that all trials have in common
    "epochs": "search.length says how long a trial is",
    "steps": "search.length says how long a trial is",
    "select": "it decides which trial is the best",
    "validate_steps": "it decides when trials are compared",
    "precision": "not a hyper-parameter",
    "micro_batch_size": "it changes no result",
    "checkpoint_seconds": "it changes no result",
    "gradient_checkpointing": "it changes no result",
    "compile": "it changes no result",
}


class Range(Strict):
    """The values of one searched field."""

    log: tuple[float, float] | None = Field(None, description="lowest and highest, on a logarithmic scale")
    linear: tuple[float, float] | None = Field(None, description="lowest and highest")
    choice: list[Any] | None = Field(None, description="values to choose from")

    @model_validator(mode="after")
    def _one_way(self) -> "Range":
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise ValueError("wanted one of log: [low, high], linear: [low, high] or choice: [value, value, …]")
        name, values = next(iter(given.items()))
        if name == "choice":
            if len(values) < 2 or any(value in values[:i] for i, value in enumerate(values)):
                raise ValueError(f"choice: got {shorten(str(values))}, wanted two different values or more")
        elif not values[0] < values[1]:
            raise ValueError(f"{name}: got [{values[0]:g}, {values[1]:g}], wanted the lower value first")
        elif name == "log" and values[0] <= 0:
            raise ValueError(f"log: got [{values[0]:g}, {values[1]:g}], wanted values > 0: zero has no logarithm")
        return self

    @model_serializer(mode="wrap")
    def _only_the_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}

    @property
    def ends(self) -> list[Any]:
        """Lowest and highest value, or all choices."""
        return list(self.log or self.linear or self.choice or ())

    def holds(self, value: Any) -> bool:
        """Tell whether a value lies in the range."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.ends
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


class Search(Strict):
    """Values that are searched before training, by trials that are judged on the validation split alone."""

    trials: int = Field(
        0, ge=0, description="trainings of the search, shared by all seeds; 0 = no search, the recipe's own values"
    )
    space: dict[str, Range] = Field(
        {}, description="train.… or method.… → log: [low, high], linear: [low, high] or choice: [value, …]"
    )
    length: float = Field(1.0, gt=0, le=1, description="length of a trial, fraction of train.epochs or train.steps")
    prune: bool = Field(False, description="stop a trial that is worse than the median of the others at its validation")

    @model_validator(mode="after")
    def _something_to_search(self) -> "Search":
        if self.trials and not self.space:
            raise ValueError("space: got nothing, wanted a field and its values, such as train.lr: {log: [1e-5, 1e-2]}")
        return self


def check_space(recipe: "Recipe", method: type[BaseModel], document: Document) -> None:
    """Add to the document what is wrong with the fields that a recipe searches, and with their lowest and highest values.

    Args:
        recipe: checked but for this.
        method: hyper-parameters of its method.
        document: what it was read from.
    """
    for field, searched in recipe.search.space.items():
        key = (*SPACE, field)
        place = document.keys.get(key) or place_of(key, document)
        document.problems.extend(
            Problem(place, dotted(key), text) for text in _wrong(recipe, method, document.values, field, searched)
        )


def _wrong(
    recipe: "Recipe", method: type[BaseModel], values: Mapping[str, Any], field: str, searched: Range
) -> Iterator[str]:
    """Yield what is wrong with one searched field."""
    section, _, name = field.partition(".")
    if section not in ("train", "method"):
        yield "only train.… and method.… can be searched"
        return
    model = method if section == "method" else _train(recipe)
    if name not in model.model_fields:
        yield f"no such field, {one_of(name, list(model.model_fields))}"
        return
    if section == "train" and name in SHARED:
        yield f"cannot be searched: {SHARED[name]}"
        return
    others = {key: value for key, value in values.get(section, {}).items() if (section, key) != ("method", "name")}
    for end in searched.ends:
        scratch = Document({})
        whole = searched.choice is None and _whole(model, name) and end.is_integer()
        check(model, others | {name: round(end) if whole else end}, scratch)
        yield from (problem.text for problem in scratch.problems)


def with_values(recipe: R, values: Mapping[str, Any]) -> R:
    """Return a recipe with other values, by dotted field: {"train.lr": 3e-4, "method.rank": 8}."""
    changed = recipe.model_dump(mode="json")
    for field, value in values.items():
        section, _, name = field.partition(".")
        changed[section][name] = value
    return type(recipe).model_validate(changed)


def own_values(recipe: "Recipe") -> dict[str, Any]:
    """Return what a recipe itself says of the fields that it searches, where that lies in their ranges."""
    values = recipe.model_dump(mode="json")
    own = {field: values[field.partition(".")[0]].get(field.partition(".")[2]) for field in recipe.search.space}
    return {field: value for field, value in own.items() if recipe.search.space[field].holds(value)}


def trial_recipe(recipe: R, values: Mapping[str, Any]) -> R:
    """Return the recipe of one trial: other values, of the search's length, without a search, and of seed 0 for all seeds."""
    length, train = recipe.search.length, recipe.model_dump()["train"]
    rules: dict[str, Callable[[float], float]] = {
        "epochs": lambda epochs: max(1, round(epochs)),
        "warmup_epochs": lambda epochs: epochs,
        "steps": lambda steps: max(1, round(steps)),
        "warmup_steps": round,
    }
    shorter = {f"train.{name}": rule(length * train[name]) for name, rule in rules.items() if name in train}
    changed = with_values(recipe, shorter | dict(values))
    return changed.model_copy(update={"seed": 0, "search": Search()})


def takes_whole_numbers(recipe: "Recipe", field: str) -> bool:
    """Tell whether a searched field of a checked recipe has no fractions."""
    from medpeft_cli.methods import METHODS

    section, _, name = field.partition(".")
    return _whole(METHODS[recipe.method.name].config if section == "method" else _train(recipe), name)


def _train(recipe: "Recipe") -> type[BaseModel]:
    """Return the model of a task's `train`."""
    model: type[BaseModel] = type(recipe.train)  # type: ignore[attr-defined]
    return model


@cache  # asked for every cell of a grid
def _whole(model: type[BaseModel], name: str) -> bool:
    node = model.model_json_schema()["properties"][name]
    kinds = {option.get("type") for option in node.get("anyOf", [node])}
    return "integer" in kinds and "number" not in kinds
