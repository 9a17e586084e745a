"""Where a run stands in a table: its label and its order in each dimension, unequal runs told apart."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from medpeft_cli.report.records import Run

# The order of the paper's Table 2 (CNN), Table 3 (ViT) and Table 4 (U-Net); whatever it does not have follows by title.
METHOD_ORDER = {
    "cnn": ("full", "linear", "tsa", "norm", "bias", "ssf"),
    "vit": ("full", "linear", "attention", "bias", "lora", "ssf", "adaptformer", "norm"),
    "unet": ("full", "attention", "bias", "norm", "bias_norm_attention", "lora", "svdiff", "difffit"),
}
DATASET_ORDER = ("breastus", "fitzpatrick", "isic", "smdg", "pneumonia")
IDENTITY_FREE = ("seed", "device", "workers", "data.root", "train.checkpoint_seconds")  # never make two variants


@dataclass(frozen=True)
class Entry:
    """A run with its labels and sort keys by dimension."""

    run: Run
    labels: dict[str, str]
    order: dict[str, Any]

    @property
    def title(self) -> str:
        """Title of the dataset, whatever its version."""
        return _dataset(self.run)[0]

    def key(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the labels in some dimensions."""
        return tuple(self.labels[name] for name in names)


Dimension = Callable[[Run], tuple[str, Any]]


def _dataset(run: Run) -> tuple[str, Any]:
    name, title = (run.card.name, run.card.title) if run.card else ("", "")
    return title, (DATASET_ORDER.index(name) if name in DATASET_ORDER else len(DATASET_ORDER), title)


def _backbone(run: Run) -> tuple[str, Any]:
    random = run.setting("backbone", "weights") == "random"
    return f"{run.backbone_title}{' (random)' if random else ''}", (0, random)


def _fraction(run: Run) -> tuple[str, Any]:
    if (shots := run.setting("data", "k_shot")) is not None:
        return f"{shots} per class", (0, shots)
    fraction = run.setting("data", "fraction")
    share = float(fraction) if isinstance(fraction, int | float) else 1.0
    return f"{100 * share:.4g} %", (1, share)


def _method(run: Run) -> tuple[str, Any]:
    order = METHOD_ORDER.get(str(run.family), ())
    return str(run.method_title), (
        order.index(run.method) if run.method in order else len(order),
        str(run.method_title),
    )


DIMENSIONS: dict[str, Dimension] = {
    "dataset": _dataset,
    "backbone": _backbone,
    "fraction": _fraction,
    "method": _method,
    "seed": lambda run: (str(run.seed), run.seed),
}


def placeable(run: Run) -> bool:
    """Return whether a run got far enough to know its place in a table."""
    return None not in (run.card, run.family, run.backbone_title, run.method_title)


def labelled(runs: Iterable[Run], rows: Sequence[str], columns: Sequence[str], where: Mapping[str, str]) -> list[Entry]:
    """Return the runs whose labels are those in `where`, with their labels in all DIMENSIONS and in `variant`.

    Two versions of a dataset, or of a backbone's weights, get two labels. Recipes that would share a cell of a table
    with these rows and columns get a `variant` that names the fields in which they differ.
    """
    entries = []
    for run in runs:
        found = {name: dimension(run) for name, dimension in DIMENSIONS.items()}
        labels = {name: label for name, (label, _) in found.items()}
        if all(labels[name] == wanted for name, wanted in where.items()):
            entries.append(Entry(run, labels, {name: order for name, (_, order) in found.items()}))
    _tell_versions_apart(entries, "dataset", "data", lambda run: run.card and run.card.title, _data_version)
    _tell_versions_apart(entries, "backbone", "weights", _asked_backbone, _weights_version)
    _sort_backbones_by_size(entries)
    _tell_recipes_apart(entries, rows, columns)
    return entries


def _tell_versions_apart(
    entries: list[Entry],
    name: str,
    kind: str,
    asked: Callable[[Run], Hashable],
    version: Callable[[Run], str | None],
) -> None:
    """Append the hash to the labels of runs that asked for one thing and got several versions of it."""
    versions = defaultdict(set)
    for entry in entries:
        if got := version(entry.run):
            versions[asked(entry.run)].add(got)
    for entry in entries:
        known = sorted(versions[asked(entry.run)])
        if len(known) > 1:
            # a run that failed before it read anything is listed with the first version
            entry.labels[name] += f" ({kind} {version(entry.run) or known[0]})"


def _data_version(run: Run) -> str | None:
    """Return what changes with pictures, splits or card."""
    card = (run.card.sha256 or "")[:4] if run.card else ""
    return f"{run.data_version[:8]}/{card}".rstrip("/") if run.data_version else None


def _asked_backbone(run: Run) -> Hashable:
    """Return what a recipe says of the backbone or the pipeline; of a path the name, as in the identity."""
    backbone, pipeline = run.setting("backbone"), run.setting("pipeline")
    asked, path = (
        (_flat(pipeline), "name")
        if isinstance(pipeline, dict)
        else (_flat(backbone if isinstance(backbone, dict) else {}), "weights")
    )
    return run.backbone_title, *sorted((asked | {path: PurePath(asked.get(path, "")).name}).items())


def _weights_version(run: Run) -> str | None:
    return run.weights_version[:8] if run.weights_version else None


def _sort_backbones_by_size(entries: list[Entry]) -> None:
    """Sort backbones by size: the smallest total that any method on it has."""
    sizes: dict[str, int] = {}
    for entry in entries:
        if entry.run.parameters:
            title, total = str(entry.run.backbone_title), entry.run.parameters.total
            sizes[title] = min(total, sizes.get(title, total))
    for entry in entries:
        entry.order["backbone"] = (sizes.get(str(entry.run.backbone_title), 0), entry.order["backbone"])


def _tell_recipes_apart(entries: list[Entry], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Set the label `variant`: the recipe fields in which finished runs that would share a table cell differ."""
    groups = defaultdict(list)
    for entry in entries:
        entry.labels["variant"], entry.order["variant"] = "", ()
        if entry.run.test:
            groups[entry.key(rows), entry.key(columns)].append(entry)
    differing: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for (_, column), group in groups.items():
        if len(cells := {(entry.run.cell, *_versioned(entry).values()) for entry in group}) > 1:
            recipes = [_flat(entry.run.recipe) | _versioned(entry) for entry in group]
            names = sorted({name for recipe in recipes for name in recipe})
            fields = {name for name in names if len({recipe.get(name) for recipe in recipes}) > 1}
            if len({tuple(recipe.get(name) for name in fields) for recipe in recipes}) < len(cells):
                fields.add("recipe")  # what differs is in no field: the hash tells
            differing[column] |= fields  # one column, one set of fields
    for entry in entries:
        if fields := differing[entry.key(columns)]:
            recipe = _flat(entry.run.recipe) | _versioned(entry) | {"recipe": entry.run.cell}
            values = {name: recipe.get(name, "–") for name in sorted(fields)}
            entry.labels["variant"] = ", ".join(f"{_short(name, fields)} {value}" for name, value in values.items())
            entry.order["variant"] = tuple(map(_natural, values.values()))


def _versioned(entry: Entry) -> dict[str, str]:
    """Return the labels that can say more than the recipe, for tables that have them in neither rows nor columns."""
    return {name: entry.labels[name] for name in ("dataset", "backbone")}


def _natural(value: str) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, before text."""
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        elif name not in IDENTITY_FREE:
            flat[name] = str(value)
    return flat


def _short(name: str, among: Iterable[str]) -> str:
    last = name.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in among) == 1 else name
