"""Write docs/datasets.md from the cards: `python -m medpeft_cli.data.document > docs/datasets.md`. Imports no torch."""

import json
from typing import Any

from medpeft_cli.data.card import SPLITS, Card, SplitRule, card_names, load_card
from medpeft_cli.data.forms import KINDS, ClassFolders, MimicCxr, Table
from medpeft_cli.data.guide import ACCESS, expected_files
from medpeft_cli.data.prose import INTRODUCTION, OWN, PREPARE
from medpeft_cli.document import markdown_table
from medpeft_cli.recipe.problems import wanted
from medpeft_cli.recipe.schema import Strict


def dataset_reference() -> str:
    """Return docs/datasets.md: the table and sections of the cards, what prepare does, own data, all fields."""
    cards = [load_card(name) for name in card_names()]
    header = ["Card", "Dataset", "Modality", "Classes", "Pictures", "Split", "Access"]
    rows = [
        (f"[{card.name}](#{card.name})", card.title, card.modality, str(len(card.classes)), _number(card), _split(card),
         card.access)
        for card in cards
    ]  # fmt: skip
    parts = [INTRODUCTION, markdown_table(header, rows) + "\n", *map(_section, cards), PREPARE, OWN, _fields()]
    return "\n".join(parts)


def _section(card: Card) -> str:
    counts = [f"{name} {card.expected[name]:,}" for name in (*card.classes, *SPLITS) if name in card.expected]
    rows = [
        ("Dataset", f"{card.title}, {card.modality}"),
        ("Cite", card.citation),
        ("Licence", card.licence),
        ("Access", f"{ACCESS[card.access]}: {card.url}"),
        ("Size", card.size),
        ("Classes", ", ".join(card.classes)),
        (_what(card), _label(card)),
        ("Group", _group(card)),
        ("Split", _split(card) + f", seed {card.split.seed}"),
        ("Pictures", "; ".join(filter(None, [_number(card), ", ".join(counts)]))),
        ("Notes", card.notes),
    ]
    files = "\n".join(f"- `{file}`: {what}".replace("<", "&lt;") for file, what in expected_files(card).items())
    steps = "\n".join(f"{number}. {_code(step)}" for number, step in enumerate(card.steps, 1))
    return (
        f"## {card.name}\n\n```\nmedpeft prepare {card.name} --source DIR\n```\n\n{markdown_table(['', ''], rows)}\n\n"
        f"How to get it:\n\n{steps}\n\n`--source` holds:\n\n{files}\n"
    )


def _code(step: str) -> str:
    """Set a command as code; commands begin with the name of a program."""
    return f"`{step}`" if step.split(" ", 1)[0] in ("medpeft", "wget", "while", "curl") else step


def _number(card: Card) -> str:
    splits = [card.expected[split] for split in SPLITS if split in card.expected]
    if "images" in card.expected or len(splits) == len(SPLITS):
        return f"{card.expected.get('images', sum(splits)):,}"
    return "differs by release"


def _what(card: Card) -> str:
    return "Text" if card.task == "text" else "Label"


def _label(card: Card) -> str:
    layout = card.layout
    if isinstance(layout, MimicCxr):
        views, sections = ", ".join(layout.views), ", else ".join(layout.sections)
        return f"{sections} of the report; views {views}; classes by {layout.labeller}, 1 = present"
    if not isinstance(layout, Table):
        return "the folder's name" if isinstance(layout, ClassFolders) else "the array of labels"
    label = f"column `{layout.label}`" if layout.label else f"one of the columns {', '.join(layout.label_columns)}"
    parts = [f"{label}, picture in column `{layout.image}`"]
    parts += [", ".join(f"{value} = {name}" for value, name in layout.labels.items())] if layout.labels else []
    parts += [f"left out: {', '.join(layout.ignore_labels)}"] if layout.ignore_labels else []
    parts += [f"kept beside it: {', '.join(layout.attributes)}"] if layout.attributes else []
    return "; ".join(parts)


def _group(card: Card) -> str:
    if isinstance(card.layout, MimicCxr):
        return "patient: never in two splits"
    column = card.layout.group if isinstance(card.layout, Table) else None
    return f"{card.split.group}, column `{column}`: never in two splits" if column else "each picture for itself"


def _split(card: Card) -> str:
    if card.official:
        return "official"
    return " / ".join(f"{100 * fraction:g}" for fraction in card.split.fractions) + " %"


def _fields() -> str:
    """Return the tables of everything a card may say."""
    parts = ["## Every field of a card\n"]
    models: list[tuple[str, str, type[Strict]]] = [("The card", "", Card)]
    models += [(f"`layout`, kind {kind}", "layout.", model) for kind, model in KINDS.items()]
    models += [("`split`", "split.", SplitRule)]
    for title, prefix, model in models:
        schema = model.model_json_schema()
        rows = [
            (f"`{prefix}{name}`", _wanted(node), _default(name, node, schema), node.get("description", MEANING.get(name, "")))
            for name, node in sorted(schema["properties"].items(), key=lambda field: field[0] != "kind")
        ]  # fmt: skip
        table = markdown_table(["Field", "Wanted", "Default", "Meaning"], rows)
        parts.append(f"### {title}\n\n{(model.__doc__ or '').replace('<', '&lt;')}\n\n{table}\n")
    return "\n".join(parts)


MEANING = {
    "layout": "where files and labels are, below",
    "alternatives": "other forms of the same download, taken in order where the files of layout are not there",
    "split": "how they are divided, below",
    "kind": "which layout",
}


def _wanted(node: dict[str, Any]) -> str:
    if node.get("type") == "object" and "additionalProperties" in node:
        return f"a map of text to {wanted(node['additionalProperties'])}"
    return "a map" if "oneOf" in node or "$ref" in node else wanted(node)


def _default(name: str, node: dict[str, Any], schema: dict[str, Any]) -> str:
    if name in schema.get("required", ()):
        return "needed"
    return "" if "$ref" in node else f"`{json.dumps(node.get('default'), ensure_ascii=False)}`"


if __name__ == "__main__":
    print(dataset_reference(), end="")
