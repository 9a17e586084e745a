"""Write docs/datasets.md from the cards: `python -m medpeft_cli.data.document > docs/datasets.md`. Imports no torch."""

import json
from typing import Any

from medpeft_cli.data.card import KINDS, Card, ClassFolders, Npz, SplitRule, Table, card_names, load_card
from medpeft_cli.document import markdown_table
from medpeft_cli.recipe.problems import wanted
from medpeft_cli.recipe.schema import Strict

INTRODUCTION = """\
# Datasets

<!-- Written by `python -m medpeft_cli.data.document > docs/datasets.md`; a test compares. Edit the cards, or that module. -->

A dataset card is a small YAML file: where files and labels lie, which classes there are, how the pictures are split.
`medpeft prepare CARD --source DIR` turns a download into a prepared dataset, `data/<card>`; a recipe names the card
(`data: {card: isic}`). medpeft downloads nothing and never changes the source.
"""

PREPARE = """\
## What prepare does

1. **List** the pictures of the source as the card's layout says. A link that leads out of the source is an error.
2. **Decode** each picture once (below), and shrink it to a short side of at most `--size` pixels (256): bicubic,
   antialiased, aspect kept, never enlarged. An unreadable picture is an error that names the file, unless
   `--allow-bad N` lets N of them go.
3. **Check**. Pictures with the same pixels under two labels are left out. Pictures with the same pixels under one label
   share a group. A number of pictures other than `expected` is a warning.
4. **Split** into train, val and test. Without an official split: stratified by class, no group in two splits, every class in
   every split; it depends on the ids, the groups and the seed, not on the order of files. An official split is kept: test
   stays as it is, a picture of train that is also in val or test (same group or same pixels) is left out, and a val that the
   source lacks is taken from train.
5. **Write** `manifest.csv` (one row a picture: id, file, label, split, group, size, further columns), `images.bin` (the pixels)
   and `dataset.json` (counts, seed, everything that was left out and why, and a hash of the whole), all or nothing.

Nothing is lost silently: what was left out is counted on the screen and listed by file and reason in `dataset.json`. The
same command on the same files does nothing; `--check` says what would be made and writes nothing. A backbone that
reads more pixels than were packed is refused with the `--size` it needs.

## How pictures are decoded

PNG, JPEG, BMP, TIFF, WebP, GIF, PGM/PPM and DICOM (`.dcm`, `.dicom`).

| Picture | Becomes |
|---|---|
| 8-bit grey, RGB | as it is; RGB with three equal channels is stored as grey |
| 1 bit | 0 and 255 |
| palette, YCbCr, CMYK, LAB | Pillow's conversion to RGB |
| alpha (RGBA, grey with alpha, transparent palette) | laid over black |
| grey of 16 or 32 bits, or float | linear, from the picture's own minimum (0) to its maximum (255) |
| RGB of 16 bits | the high byte |
| EXIF orientation | applied |
| several frames (GIF, TIFF) | the first |
| DICOM | rescale, then the first window; more than 8 bits linear as above; MONOCHROME1 inverted; more than one frame is an error |

Training sees RGB: grey is repeated three times.
"""

OWN = """\
## Your own data

Write a card, prepare, fine-tune. Give the file the card's name: the dataset goes to `data/<name>`, and a recipe that
names the card by its path looks in `data/<file name without .yaml>`.

```
medpeft prepare lesions.yaml --source ~/pictures --check     # what would be made
medpeft prepare lesions.yaml --source ~/pictures
medpeft finetune recipes/isic_lora.yaml --set data.card=lesions.yaml
```

`recipes/extra/own_data.yaml` is a recipe to start from, and [recipes/extra/cards](../recipes/extra/cards) holds cards of
six public datasets. A card without `licence`, `citation` and `url` is fine; `access` is `own` unless you say otherwise.

### A folder per class

```
pictures/benign/P0017_1.png      pictures/malignant/P0003_1.png
pictures/benign/P0017_2.png      pictures/malignant/P0003_2.png …
```

```yaml
name: lesions
title: My lesions
modality: dermatoscopy
classes: [benign, malignant]             # in the order of the classifier's outputs
layout:
  kind: class_folders
  group_pattern: '^(P\\d+)_'              # P0017_2.png belongs to P0017: all its pictures stay in one split
split: {group: patient, fractions: [0.7, 0.15, 0.15], seed: 0}
```

- Folders may lie deeper (`benign/2021/x.png`); a folder that is no class is left out and listed.
- Folder names that differ from the classes: `labels: {Benign lesions: benign, MM: malignant}`.
- Masks beside the pictures: `mask_pattern: '_mask\\.png$'`.
- `split.group` only says what a group is called; what decides is `group_pattern`, or the column `group` of a table. Without
  either each picture is its own group. Patients in two splits make a test score that is too good: give the pattern.

### Ready splits

```
Train/benign/…  Train/malignant/…  Test/benign/…  Test/malignant/…
```

```yaml
name: ready
title: With a test folder
modality: dermatoscopy
classes: [benign, malignant]
layout:
  kind: class_folders
  splits: {train: Train, test: Test}     # no val: it is taken from Train, by the ratio of split.fractions
```

`split: {rule: stratified}` ignores the folders and divides all pictures anew.

### A table of labels

```yaml
name: chest
title: Chest X-rays
modality: chest X-ray
classes: [normal, pneumonia]
layout:
  kind: csv                              # commas, semicolons or tabs; UTF-8, UTF-16 or Windows-1252
  file: labels.csv
  image: file                            # a name or a path, with or without extension
  label: finding
  labels: {"0": normal, "1": pneumonia, viral pneumonia: pneumonia}   # numbers in quotation marks
  ignore_labels: [unclear]               # these rows are left out, and counted
  group: patient
  split: partition
  split_names: {training: train, validation: val, testing: test}
  folders: [images]                      # searched in order, then below them by name
  extensions: [.png, .jpg]
  attributes: {age: age, sex: sex}       # further columns that the manifest keeps
split: {group: patient}
```

- Leave out `split` and `split_names` for a stratified split, `group` where there is none.
- A label that is neither a class, nor in `labels`, nor in `ignore_labels` is an error with its line. An empty one is left out.
- Rows whose picture is absent and pictures that no row names are left out and listed. Several rows of one picture are one
  picture; if they disagree on the label or the split, it is left out.

### One .npz of the MedMNIST kind

Arrays `train_images`, `train_labels`, and the same for `val` and `test` where there are any: uint8 (N, H, W) or (N, H, W, 3),
labels 0, 1, … in the order of `classes`.

```yaml
name: mnist_like
title: Arrays
modality: chest X-ray
classes: [normal, pneumonia]             # label 0, label 1
layout: {kind: npz, file: mnist_like.npz}
```

`--source` is the folder that holds the file, or the file itself.
"""


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
    counts = [f"{name} {card.expected[name]:,}" for name in card.classes if name in card.expected]
    rows = [
        ("Dataset", f"{card.title}, {card.modality}"),
        ("Cite", card.citation),
        ("Licence", card.licence),
        ("Get it", f"{_access(card)} {card.url}"),
        ("`--source` holds", _holds(card)),
        ("Classes", ", ".join(card.classes)),
        ("Label", _label(card)),
        ("Group", _group(card)),
        ("Split", _split(card) + f", seed {card.split.seed}"),
        ("Expected", "; ".join(filter(None, [f"{_number(card)} pictures", ", ".join(counts)]))),
        ("Notes", card.notes),
    ]
    return f"## {card.name}\n\n```\nmedpeft prepare {card.name} --source DIR\n```\n\n{markdown_table(['', ''], rows)}\n"


def _number(card: Card) -> str:
    return f"{card.expected['images']:,}" if "images" in card.expected else "differs by release"


def _access(card: Card) -> str:
    return {"open": "download:", "credentialed": "account and accepted terms needed:", "own": "your own data"}[
        card.access
    ]


def _holds(card: Card) -> str:
    layout = card.layout
    if isinstance(layout, Npz):
        return f"`{layout.file}`"
    if isinstance(layout, ClassFolders):
        folder = "" if layout.folder == "." else f" in a folder `{layout.folder}`, or directly"
        masks = f"; files that match `{layout.mask_pattern}` are masks and left out" if layout.mask_pattern else ""
        return f"one folder a class{folder}{masks}"
    folders = "in " + ", ".join(f"`{folder}`" for folder in layout.folders) if layout.folders else "anywhere beside it"
    return f"`{layout.file}`, and the pictures {folders} ({', '.join(layout.extensions)})"


def _label(card: Card) -> str:
    layout = card.layout
    if not isinstance(layout, Table):
        return "the folder's name" if isinstance(layout, ClassFolders) else "the array of labels"
    parts = [f"column `{layout.label}`, picture in column `{layout.image}`"]
    parts += [", ".join(f"{value} = {name}" for value, name in layout.labels.items())] if layout.labels else []
    parts += [f"left out: {', '.join(layout.ignore_labels)}"] if layout.ignore_labels else []
    parts += [f"kept beside it: {', '.join(layout.attributes)}"] if layout.attributes else []
    return "; ".join(parts)


def _group(card: Card) -> str:
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
