"""Read YAML as plain values and remember where each stands, so that every later complaint can name line and column."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medpeft_cli.errors import RecipeError
from medpeft_cli.registry import nearest

Key = tuple[str | int, ...]
"""Path of a value inside a document: ("train", "betas", 0)."""

# The core schema of YAML 1.2: 1e-3 is a number; no, on, yes and 1:30 are text (PyYAML alone follows YAML 1.1).
CORE_SCALARS: dict[str, tuple[str, str]] = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN\0"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}

DEEPEST = 20
"""Levels of nesting; no recipe needs more than five."""


class Place(NamedTuple):
    """Where something was written. Line and column count from 1 and are 0 outside files."""

    source: str  # a file, "--set" or "demo"
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Return `recipes/x.yaml:9:3`."""
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Problem(NamedTuple):
    """One line of a complaint: where, which field, and what is wrong."""

    place: Place
    field: str
    text: str

    def __str__(self) -> str:
        """Return `recipes/x.yaml:9:3: method.rank: got 0, wanted …`."""
        if self.place.source == "--set":
            return f"--set {self.field}: {self.text}"
        return ": ".join(filter(None, (str(self.place), self.field, self.text)))


@dataclass
class Document:
    """A map read from YAML, with the place of each key and of each value, and what was wrong with it so far."""

    values: dict[str, Any]
    keys: dict[Key, Place] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class _CoreLoader(yaml.SafeLoader):
    """Composes nodes only; no constructor ever runs, so no tag can name a Python object."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            problem = (
                "anchors (&), aliases (*) and tags (!) are not used here; `base:` shares what recipes have in common"
            )
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _CoreDumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 *or* 1.2 would read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {
        first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _tag, (_pattern, _first) in CORE_SCALARS.items():
    for _class in (_CoreLoader, _CoreDumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first])


def read_document(path: Path) -> Document:
    """Return the map in a YAML file.

    Raises:
        RecipeError: if the file cannot be read, is not YAML, or is not a map.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: not a text file, byte {error.start} is not UTF-8", "a recipe is YAML text"
        ) from None
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file", nearest_file(path)) from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read, {(error.strerror or str(error)).lower()}") from None
    return parse_document(text, str(path))


def nearest_file(path: Path) -> str:
    """Return a hint for a file that is not there: the one most like it in the same folder."""
    known = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    guess = nearest(path.name, known)
    return (
        f"did you mean {str(path.parent / guess)!r}?"
        if guess
        else "`medpeft list recipes` and `medpeft list datasets` show what there is"
    )


def parse_document(text: str, source: str) -> Document:
    """Return the map in a YAML text; `source` is how complaints call it.

    Raises:
        RecipeError: if the text is not YAML or not a map.
    """
    node = _compose(text, source)
    if not isinstance(node, yaml.MappingNode):
        found = "nothing" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise RecipeError(f"{source}: got {found}, wanted a map of fields", "write one `field: value` a line")
    document = Document({})
    document.values = _value(node, (), source, document)
    return document


def parse_value(text: str, key: Key, source: str, document: Document) -> Any:
    """Return one value written as YAML, such as `1e-3`, `[1, 2]` or `null`; its places go to `document` under `key`.

    Raises:
        RecipeError: if the text is not YAML.
    """
    node = _compose(text, source)
    return None if node is None else _value(node, key, source, document)


def dump_values(values: dict[str, Any]) -> str:
    """Return YAML text from which `parse_document` reads the same values, keys in their order."""
    return yaml.dump(
        values, Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )


def dump_value(value: Any) -> str:
    """Return one line of YAML from which `parse_value` reads the same value, as `--set` wants it."""
    text = yaml.dump(
        [value], Dumper=_CoreDumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=2**31
    ).strip()[1:-1]
    return json.dumps(value, ensure_ascii=False) if "\n" in text else text  # JSON escapes the ends of lines


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source, mark.line + 1, mark.column + 1) if mark and source != "--set" else Place(source)
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        hint = (
            "indent with spaces, not with tabs"
            if "\t" in line
            else "quote text that holds : # [ ] { } or starts with @ % *"
        )
        raise RecipeError(f"{place}: not YAML, {error.problem or error.context}", hint) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(source, before.count("\n") + 1, error.position - before.rfind("\n"))
        raise RecipeError(f"{place}: not YAML text, character {error.character!r}", "a recipe is YAML text") from None
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply") from None


def _value(node: yaml.Node, key: Key, source: str, document: Document) -> Any:
    """Return the plain value of a node and note its place, and those of all it holds."""
    place = _place(node, source)
    document.places[key] = place
    if len(key) > DEEPEST:
        raise RecipeError(f"{place}: nested too deeply, wanted at most {DEEPEST} levels")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*key, i), source, document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _map(node, key, source, document)
    try:
        return _scalar(node)
    except ValueError:
        document.problems.append(Problem(place, dotted(key), f"got {shorten(node.value)!r}, which cannot be read"))
        return None


def _place(node: yaml.Node, source: str) -> Place:
    mark = node.start_mark
    return Place(source) if source == "--set" else Place(source, mark.line + 1, mark.column + 1)


def _map(node: yaml.MappingNode, key: Key, source: str, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name_node, value_node in node.value:
        place = _place(name_node, source)
        if not isinstance(name_node, yaml.ScalarNode):
            document.problems.append(Problem(place, dotted(key), "a field's name must be one word"))
            continue
        name = str(name_node.value)
        if name in values:
            first = document.keys[(*key, name)]
            document.problems.append(Problem(place, dotted((*key, name)), f"written twice, first at {first}"))
            continue
        document.keys[(*key, name)] = place
        values[name] = _value(value_node, (*key, name), source, document)
    return values


def _scalar(node: yaml.Node) -> Any:
    """Return None, a bool, int, float or str. Raises ValueError for a number of thousands of digits, or half a character."""
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    text.encode()  # raises UnicodeEncodeError, a ValueError
    return text


def dotted(key: Key) -> str:
    """Return `train.betas.0` for ("train", "betas", 0); odd characters are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in ".".join(map(str, key)))


def shorten(text: str, length: int = 60) -> str:
    """Return text cut to `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
