"""Say in plain words what is wrong with a value: got, wanted. The same words describe the fields in docs/recipes.md."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from medpeft_cli.recipe.source import Document, Key, Place, Problem, dotted, shorten
from medpeft_cli.registry import nearest

M = TypeVar("M", bound=BaseModel)

Schema = dict[str, Any]
"""A JSON schema, as pydantic gives it."""


def check(model: type[M], values: Any, document: Document, under: Key = ()) -> M | None:
    """Return `values` as a `model`, or None after adding each problem to `document`.

    Strict as JSON is: "5" is no number, 1 is not true, a list may stand for a tuple and text for a path.

    Args:
        model: what the values must be.
        values: plain values, as read from YAML.
        document: knows where each value was written; collects the problems.
        under: where in the document `values` stands.
    """
    try:
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        schema = model.model_json_schema()
        seen: set[Key] = set()
        details = error.errors(include_url=False)
        short = {detail["loc"][:-1] for detail in details if _is_short(detail)}  # lists: told once, not item by item
        for detail in details:
            if detail["loc"][:-1] in short and not _is_short(detail):
                continue
            key, node, parent = _follow(schema, detail["loc"], values)
            if key not in seen:  # each branch of a union reports its own failure
                seen.add(key)
                document.problems.append(_problem(detail, (*under, *key), node, parent, document))
        return None


def _problem(detail: Any, key: Key, node: Schema, parent: Schema, document: Document) -> Problem:
    """Translate one pydantic error."""
    if detail["type"] == "extra_forbidden":
        known = list(parent.get("properties", {}))
        known += ["base"] if "task" in known else []  # only a file may say it
        place = document.keys.get(key) or place_of(key, document)
        return Problem(place, dotted(key), f"no such field, {one_of(str(key[-1]), known)}")
    if _is_short(detail):
        return Problem(
            place_of(key[:-1], document), dotted(key[:-1]), f"got {got(detail['input'])}, wanted {wanted(node)}"
        )
    if detail["type"] == "missing":
        place = document.keys.get(key[:-1]) or place_of(key[:-1], document)
        meaning = f": {node['description']}" if "description" in node else ""
        return Problem(place, dotted(key), f"got nothing, wanted {wanted(node)}{meaning}")
    place = place_of(key, document)
    if detail["type"] == "value_error":  # from a validator of ours
        value = detail["input"]
        found = "" if isinstance(value, dict) else f"got {got(value)}, "
        return Problem(place, dotted(key), f"{found}{detail['ctx']['error']}")
    return Problem(place, dotted(key), f"got {got(detail['input'])}, wanted {wanted(node)}")


def _is_short(detail: Any) -> bool:
    """Return whether pydantic misses an item of a list of fixed length."""
    return detail["type"] == "missing" and isinstance(detail["loc"][-1], int)


def one_of(name: str, known: list[str]) -> str:
    """Return `got 'rnak', did you mean 'rank'? wanted one of rank, alpha`."""
    guess = nearest(name, known)
    wanted_names = f"wanted one of {', '.join(known)}" if known else "wanted none"
    return f"got {shorten(name)!r}, " + (f"did you mean {guess!r}? " if guess else "") + wanted_names


def place_of(key: Key, document: Document) -> Place:
    """Return where a value, or else the nearest thing around it, was written."""
    while key not in document.places and key:
        key = key[:-1]
    return document.places.get(key) or Place("recipe")


def got(value: Any) -> str:
    """Return a value as its author would have written it."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, str):
        return repr(shorten(value))
    return shorten(json.dumps(value, ensure_ascii=False))


def wanted(node: Schema) -> str:
    """Return a JSON schema in words: `a whole number ≥ 1 or null`."""
    if "anyOf" in node:
        return " or ".join(wanted(option) for option in node["anyOf"])
    if "const" in node:
        return str(node["const"])
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    kind = node.get("type")
    if kind == "array":
        if "prefixItems" in node:
            return f"{len(node['prefixItems'])} {_plural(node['prefixItems'][0])}"
        return f"a list of {_plural(node.get('items', {}))}"
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    if node.get("format") == "path":
        return "a path"
    if "pattern" in node:  # says nothing to a reader: the description lists what it admits
        return f"text: {node['description'].partition(';')[0]}"
    return words.get(str(kind), "a map" if kind == "object" or "$ref" in node else "anything") + _bounds(node)


def _plural(node: Schema) -> str:
    kinds = {"integer": "whole numbers", "number": "numbers", "string": "texts"}
    return f"{kinds[node['type']]}{_bounds(node)}" if node.get("type") in kinds else "values"


def _bounds(node: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {node[name]:.12g}" for name, sign in signs.items() if name in node]
    if node.get("multipleOf", 1) != 1:
        found.append(f"a multiple of {node['multipleOf']:.12g}")
    return f" {' and '.join(found)}" if found else ""


def _follow(schema: Schema, loc: tuple[int | str, ...], values: Any) -> tuple[Key, Schema, Schema]:
    """Return the key that a pydantic location means, the schema of the field and that of the model around it.

    Names of union branches, which pydantic puts into a location, are left out.
    """
    key: Key = ()
    node, parent = schema, schema
    for step in loc:
        below = values if not key else _get(values, key)
        if isinstance(step, int):
            key = (*key, step)
        elif step in (properties := _resolve(node, schema).get("properties", {})):
            parent, node, key = _resolve(node, schema), properties[step], (*key, step)
        elif isinstance(below, dict) and step in below:  # a key of a map, or a field that the schema does not know
            parent, key = _resolve(node, schema), (*key, step)
            values_of_map = parent.get("additionalProperties")
            node = values_of_map if isinstance(values_of_map, dict) else node
    return key, node, parent


def _get(values: Any, key: Key) -> Any:
    for step in key:
        if isinstance(values, dict):
            values = values.get(step)
        else:
            values = values[step] if isinstance(values, list) and isinstance(step, int) else None
    return values


def _resolve(node: Schema, schema: Schema) -> Schema:
    """Return the schema a `$ref` points to; of a choice, the branch that has fields."""
    for option in (node, *node.get("anyOf", ())):
        if "$ref" in option:
            return dict(schema["$defs"][option["$ref"].rpartition("/")[2]])
    return node
