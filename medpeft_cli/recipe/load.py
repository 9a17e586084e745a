"""Turn a recipe file, the files it builds on, `--demo` and `--set` into one checked recipe with every field explicit.

Later wins: base files, the file itself, the demo's values, `--set`. Maps merge, lists and values replace.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.problems import check, got, one_of, place_of
from medpeft_cli.recipe.schema import RECIPES, MethodChoice, Recipe
from medpeft_cli.recipe.search import SPACE, check_space
from medpeft_cli.recipe.source import (
    Document,
    Key,
    Place,
    Problem,
    dotted,
    dump_values,
    nearest_file,
    parse_value,
    read_document,
)
from medpeft_cli.registry import unknown_hint

FAMILIES = {"classify": {"cnn", "vit"}, "generate": {"unet"}}
HINT = "docs/recipes.md explains every field; `medpeft list methods` shows the methods"


@dataclass(frozen=True)
class Loaded:
    """A checked recipe.

    Attributes:
        recipe: every field explicit, those of the method too.
        path: the file it was read from.
        origins: dotted field → where its value comes from: "recipes/x.yaml:7", "--set", "demo" or "default".
    """

    recipe: Recipe
    path: Path
    origins: dict[str, str]


def load_recipe(path: Path, overrides: Sequence[str] = (), *, demo: bool = False) -> Loaded:
    """Read and check a recipe.

    Args:
        path: YAML file; its `base:` is looked up beside it.
        overrides: `a.b=value` as `--set` takes them; the value is YAML.
        demo: replace data and weights by the bundled ones.

    Raises:
        RecipeError: with one line for every problem there is.
    """
    recipe, merged = resolve(read_files(Path(path)), read_overrides(overrides), demo=demo)
    origins = {}
    for key, _ in leaves(recipe.model_dump(mode="json")):
        place = merged.places.get(key, Place("default"))
        origins[dotted(key)] = f"{place.source}:{place.line}" if place.line else place.source
    return Loaded(recipe, Path(path), origins)


def dump_recipe(recipe: Recipe) -> str:
    """Return YAML that loads again to the same recipe."""
    return dump_values(recipe.model_dump(mode="json"))


def leaves(values: dict[str, Any], under: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield (path, value) of everything in nested maps that is not itself a map with something in it."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*under, name))
        else:
            yield (*under, name), value


# --- files ---------------------------------------------------------------------------------------------------------


Reader = Callable[[Path], Document]


def read_files(path: Path, read: Reader = read_document, above: tuple[Path, ...] = ()) -> Document:
    """Return a file merged over the files that its `base:` names.

    Args:
        path: the file.
        read: how each file is read; many recipes on a few bases want a reader that remembers.
        above: the files that led to this one.

    Raises:
        RecipeError: if one of them cannot be read; what they say is checked by `resolve`.
    """
    document = read(path)
    if "base" not in document.values:
        return document
    values = dict(document.values)
    base, place = values.pop("base"), document.places[("base",)]
    document = Document(values, document.keys, document.places, document.problems)
    if not isinstance(base, str):
        raise RecipeError(f"{place}: base: got {got(base)}, wanted a file name", "relative to this file")
    base_path = Path(os.path.normpath(path.parent / base))
    chain = (*above, path)
    if base_path.resolve() in [p.resolve() for p in chain]:
        circle = " → ".join(map(str, (*chain, base_path)))
        raise RecipeError(f"{place}: base: goes round in a circle, {circle}", "one of them must do without `base:`")
    if not base_path.is_file():
        raise RecipeError(f"{place}: base: no such file, got {str(base_path)!r}", nearest_file(base_path))
    return merge(read_files(base_path, read, chain), document)


# --- merging -------------------------------------------------------------------------------------------------------


def merge(below: Document, above: Document) -> Document:
    """Return `above` laid over `below`, with the places of both; neither is changed."""
    merged = Document(dict(below.values), dict(below.keys), dict(below.places), below.problems + above.problems)
    if () in above.places:  # what is missing is missing in the uppermost file
        merged.places[()] = above.places[()]
    _merge_maps(merged, above, (), merged.values, above.values)
    return merged


def _merge_maps(merged: Document, above: Document, key: Key, old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        here = (*key, name)
        before: Any = old.get(name)
        both = isinstance(value, dict) and isinstance(before, dict)
        merging = both and here[:-1] != SPACE and not _names_another_method(here, before, value)
        for old_places, new_places in ((merged.keys, above.keys), (merged.places, above.places)):
            for gone in [k for k in old_places if k[: len(here)] == here and not merging]:
                del old_places[gone]
            old_places |= {k: place for k, place in new_places.items() if k[: len(here)] == here}
        if merging:
            old[name] = {**before}
            _merge_maps(merged, above, here, old[name], value)
        else:
            old[name] = value


def _names_another_method(key: Key, before: dict[str, Any], value: dict[str, Any]) -> bool:
    """Tell whether the base's hyper-parameters belong to a method that is no longer meant."""
    return key == ("method",) and "name" in value and value["name"] != before.get("name")


def read_overrides(overrides: Sequence[str], overlay: Document | None = None) -> Document:
    """Return what `--set a.b=value …` says as one map, on top of an overlay; of two for the same field the later wins."""
    overlay = overlay or Document({})
    place = Place("--set")
    for override in overrides:
        field, equals, text = override.partition("=")
        names = tuple(field.strip().split("."))
        if not equals or not all(names):
            overlay.problems.append(
                Problem(place, dotted((override,)), "wanted FIELD=VALUE, such as --set train.lr=1e-3")
            )
            continue
        try:
            value = parse_value(text, names, "--set", overlay)
        except RecipeError as error:
            overlay.problems.append(Problem(place, dotted(names), error.message.removeprefix("--set: ")))
            continue
        put(overlay, names, value, place)
    return overlay


def put(overlay: Document, names: tuple[str, ...], value: Any, place: Place) -> None:
    """Set one field of a document, with the maps around it; places within the value are left to the caller."""
    target = overlay.values
    for i, name in enumerate(names[:-1], 1):
        overlay.keys[names[:i]] = overlay.places[names[:i]] = place
        if not isinstance(target.get(name), dict):
            target[name] = {}
        target = target[name]
    overlay.keys[names] = overlay.places[names] = place
    target[names[-1]] = value


def _with_demo(files: Document, overlay: Document, merged: Document) -> Document:
    """Return files < demo < --set. The demo's weights are chosen by what the recipe and --set name, and replace them."""
    from medpeft_cli.demo.overlay import demo_overlay

    values = demo_overlay(merged.values)
    place = Place("demo")
    keys: dict[Key, Place] = {}
    for key, _ in leaves(values):
        keys |= {key[: i + 1]: place for i in range(len(key))}
    model = "backbone" if "backbone" in values else "pipeline"
    below = Document({name: value for name, value in files.values.items() if name != model}, files.keys, files.places)
    above = merge(Document({}), overlay)
    if isinstance(chosen := above.values.get(model), dict):
        above.values[model] = {name: value for name, value in chosen.items() if name != "name"}
    return merge(merge(below, Document(values, keys, dict(keys))), above)


# --- checking ------------------------------------------------------------------------------------------------------


def resolve(files: Document, overlay: Document, *, demo: bool = False) -> tuple[Recipe, Document]:
    """Return the recipe that files and what is laid over them make, and the document it was checked from.

    Raises:
        RecipeError: with one line for every problem there is.
    """
    recipe = _resolve(merged := merge(files, overlay))
    if demo:
        recipe = _resolve(merged := _with_demo(files, overlay, merged))
    _refuse_set_and_searched(recipe, overlay)
    return recipe, merged


def _refuse_set_and_searched(recipe: Recipe, overlay: Document) -> None:
    """Raise RecipeError if `--set` or a matrix gives a value to a field that is searched."""
    searched = recipe.search.space if recipe.search.trials else {}
    both = [field for field in searched if tuple(field.split(".")) in overlay.places]
    if both:
        text = "has a value here, and is searched (search.space)"
        lines = [str(Problem(overlay.places[tuple(field.split("."))], field, text)) for field in both]
        raise RecipeError("\n".join(lines), "search.trials=0 trains with the value; without the value it is searched")


def _resolve(document: Document) -> Recipe:
    """Return the recipe with every default filled in, or raise with all its problems."""
    from medpeft_cli.methods import METHODS, REFUSED

    document = Document(document.values, document.keys, document.places, list(document.problems))
    recipe = check(kind, document.values, document) if (kind := _kind(document)) else None
    config = None
    choice = document.values.get("method")
    if isinstance(choice, dict) and isinstance(name := choice.get("name"), str):
        if name in METHODS:
            parameters = {field: value for field, value in choice.items() if field != "name"}
            config = check(METHODS[name].config, parameters, document, ("method",))
            if kind and not FAMILIES[document.values["task"]] & METHODS[name].titles.keys():
                text = f"{name!r} is not for task {document.values['task']}, it is for {' and '.join(METHODS[name].titles)}"
                document.problems.append(Problem(place_of(("method", "name"), document), "method.name", text))
        else:
            reason = f"refused: {REFUSED[name]}" if name in REFUSED else unknown_hint(name, METHODS)
            text = f"unknown PEFT method, got {name!r}, {reason}"
            document.problems.append(Problem(place_of(("method", "name"), document), "method.name", text))
    if recipe is not None and config is not None and kind:
        check_space(recipe, METHODS[recipe.method.name].config, document)
    if recipe is not None and (unknown := _unknown_card(recipe.data.card)):
        document.problems.append(Problem(place_of(("data", "card"), document), "data.card", unknown))
    if document.problems:
        lines = sorted(document.problems, key=lambda p: p.place)
        raise RecipeError("\n".join(map(str, lines)), HINT)
    if recipe is None or config is None:
        raise RuntimeError("a recipe without problems has a method")
    method = MethodChoice(name=recipe.method.name, **config.model_dump(mode="json"))
    return recipe.model_copy(
        update={"method": method, "data": recipe.data.model_copy(update={"root": recipe.data.folder})}
    )


def _kind(document: Document) -> type[Recipe] | None:
    """Return the schema of the recipe's task, or None after adding the problem."""
    task = document.values.get("task")
    if isinstance(task, str) and task in RECIPES:
        return RECIPES[task]
    found = one_of(task, list(RECIPES)) if isinstance(task, str) else f"got nothing, wanted {' or '.join(RECIPES)}"
    document.problems.append(Problem(place_of(("task",), document), "task", found))
    return None


def _unknown_card(card: str) -> str | None:
    """Return what is wrong with a card that is neither a name nor the path of a file; its content is read later."""
    from medpeft_cli.data.card import card_names

    if card in card_names() or Path(card).is_file():
        return None
    return f"got {card!r}, {unknown_hint(card, card_names())}; or the path of your own card.yaml"
