"""Where a run stands in a table: its label and its order in each dimension, unequal runs told apart."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medpeft_cli.recipe.identity import essence
from medpeft_cli.registry import lookup
from medpeft_cli.report.records import Run

# The order of the paper's Table 2 (CNN), Table 3 (ViT) and Table 4 (U-Net); whatever it does not have follows by title.
METHOD_ORDER = {
    "cnn": ("full", "linear", "tsa", "norm", "bias", "ssf"),
    "vit": ("full", "linear", "attention", "bias", "lora", "ssf", "adaptformer", "norm"),
    "unet": ("full", "attention", "bias", "norm", "bias_norm_attention", "lora", "svdiff", "difffit"),
}
DATASET_ORDER = ("breastus", "fitzpatrick", "isic", "smdg", "pneumonia")


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
    share = run.share
    return f"{100 * share:.4g} %", (1, -share if run.family == "unet" else share)  # Table 4 goes downwards


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
SETTING = {  # dimensions without which numbers do not compare, and the fields of the recipe that say the same
    "dataset": ("data.card",),
    "backbone": ("backbone.name", "backbone.weights", "pipeline.name"),
    "fraction": ("data.fraction", "data.k_shot"),
    "method": ("method.name",),
}
NAMES: dict[str, Callable[[Run], str]] = {  # what else a user may call a label
    "dataset": lambda run: run.card.name if run.card else "",
    "backbone": lambda run: str(run.setting("backbone", "name")),
    "fraction": lambda run: f"{run.share:g}",
    "method": lambda run: run.method,
}


def dimension(name: str) -> Dimension:
    """Return what gives a run's label and order: one of DIMENSIONS, or a field of the recipe, as `train.lr`.

    Raises:
        RecipeError: if it is neither.
    """
    if name not in DIMENSIONS and "." in name:
        return lambda run: (str(value := run.setting(*name.split("."))), _natural(str(value)))
    return lookup("dimension", DIMENSIONS, name)


def placeable(run: Run) -> bool:
    """Return whether a run got far enough to know its place in a table."""
    return None not in (run.card, run.family, run.backbone_title, run.method_title)


def chosen(runs: Iterable[Run], where: Mapping[str, Collection[str]]) -> list[Run]:
    """Return the runs that have one of the wanted labels, or names as a recipe has them, in each dimension of `where`.

    Raises:
        RecipeError: if a dimension is unknown.
    """
    tests = [(dimension(name), NAMES.get(name), set(wanted)) for name, wanted in where.items()]
    return [
        run
        for run in runs
        if all(label(run)[0] in wanted or (name and name(run) in wanted) for label, name, wanted in tests)
    ]


def labelled(runs: Iterable[Run], names: Iterable[str]) -> list[Entry]:
    """Return runs with their labels in all DIMENSIONS and in others. Two versions of a dataset, or of a backbone's weights,
    get two labels.
    """
    dimensions = {name: dimension(name) for name in (*DIMENSIONS, *names)}
    entries = []
    for run in runs:
        found = {name: label(run) for name, label in dimensions.items()}
        labels = {name: text for name, (text, _) in found.items()}
        entries.append(Entry(run, labels, {name: order for name, (_, order) in found.items()}))
    _tell_versions_apart(entries, "dataset", "data", lambda run: run.card and run.card.title, _data_version)
    _tell_versions_apart(entries, "backbone", "weights", _asked_backbone, _weights_version)
    _sort_backbones_by_size(entries)
    return entries


def unnamed(entries: Sequence[Entry], names: Collection[str]) -> tuple[str, ...]:
    """Return what makes a setting and is not among the dimensions of a table, though the runs differ in it.

    Numbers of unequal settings do not compare: such a table needs these dimensions too.
    """

    def told(name: str) -> bool:
        fields = [field for field in names if field in SETTING[name]]  # its fields of the recipe may say as much
        return len({entry.key([*fields, name]) for entry in entries}) == len({entry.key(fields) for entry in entries})

    return tuple(name for name in SETTING if name not in names and not told(name))


def _tell_versions_apart(
    entries: list[Entry],
    name: str,
    kind: str,
    asked: Callable[[Run], Hashable],
    version: Callable[[Run], str | None],
) -> None:
    """Append the hash to the labels of runs that asked for one thing and got several versions of it.

    A scored run whose record does not say which version it had is of one of its own.
    """
    got = [version(entry.run) or ("unknown" if entry.run.test else None) for entry in entries]
    versions = defaultdict(set)
    for entry, its in zip(entries, got, strict=True):
        if its:
            versions[asked(entry.run)].add(its)
    for entry, its in zip(entries, got, strict=True):
        known = sorted(versions[asked(entry.run)])
        if len(known) > 1:
            # a run that failed before it read anything is listed with the first version
            entry.labels[name] += f" ({kind} {its or known[0]})"


def _data_version(run: Run) -> str | None:
    """Return what changes with pictures, splits or card."""
    card = (run.card.sha256 or "")[:4] if run.card else ""
    return f"{run.data_version[:8]}/{card}".rstrip("/") if run.data_version else None


def _asked_backbone(run: Run) -> Hashable:
    """Return what a recipe says of the backbone or the pipeline."""
    asked = [item for item in _fields(run).items() if item[0].startswith(("backbone.", "pipeline."))]
    return run.backbone_title, *sorted(asked)


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


def tell_recipes_apart(entries: Iterable[Entry], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Set the label `variant`: the recipe fields in which finished runs that would share a table cell differ."""
    groups = defaultdict(list)
    for entry in entries:
        entry.labels["variant"], entry.order["variant"] = "", ()
        if entry.run.test:
            groups[entry.key(rows), entry.key(columns)].append(entry)
    differing: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for (_, column), group in groups.items():
        if len(cells := {entry.run.cell for entry in group}) > 1:
            recipes = [_fields(entry.run) for entry in group]
            names = sorted({name for recipe in recipes for name in recipe})
            fields = {name for name in names if len({recipe.get(name) for recipe in recipes}) > 1}
            if len({tuple(recipe.get(name) for name in fields) for recipe in recipes}) < len(cells):
                fields.add("recipe")  # what differs is in no field: the hash tells
            differing[column] |= fields  # one column, one set of fields
    for entry in entries:
        if fields := differing[entry.key(columns)]:
            recipe = _fields(entry.run) | {"recipe": entry.run.cell}
            values = {name: recipe.get(name, "–") for name in sorted(fields)}
            entry.labels["variant"] = ", ".join(f"{_short(name, fields)} {value}" for name, value in values.items())
            entry.order["variant"] = tuple(map(_natural, values.values()))


def _natural(value: str) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, before text."""
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value


def _fields(run: Run) -> dict[str, str]:
    """Return what may make two variants: the fields that count for the identity, less the seed."""
    return _flat({name: value for name, value in essence(run.recipe).items() if name != "seed"})


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in recipe.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def _short(name: str, among: Iterable[str]) -> str:
    last = name.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in among) == 1 else name
