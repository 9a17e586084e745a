"""From packed pictures to a dataset: check them, split them, and say what there is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medpeft_cli.data.card import SPLITS, Card
from medpeft_cli.data.checks import Pictures, Twins, by_reason, drop_conflicts, examples, find_twins
from medpeft_cli.data.divide import divide, strata
from medpeft_cli.data.leaks import Leak, OnLeak, called, count_leaks, find_leaks, undecided
from medpeft_cli.data.manifest import FORMAT, dataset_sha256, split_counts, write_rows
from medpeft_cli.data.pack import PIECE, Pieces
from medpeft_cli.data.splits import nested_ranks
from medpeft_cli.errors import DataError
from medpeft_cli.files import atomic_path
from medpeft_cli.words import counted

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)  # Figure 1 of the paper; any other works as well


@dataclass(frozen=True)
class Rules:
    """What decides a dataset beside its pictures: card, target size in pixels, seed of the split, what may be left out."""

    card: Card
    size: int
    seed: int
    allow_bad: int
    on_leak: OnLeak | None


@dataclass(frozen=True)
class Built:
    """A dataset before it is written: dataset.json, columns of manifest.csv, pictures that stay, and what was found."""

    info: dict
    columns: dict[str, list[str]]
    pictures: Pictures
    twins: Twins
    leaked: dict[str, list[str]]

    def tables(self) -> dict[str, dict[str, list[str]]]:
        """Return the tables that go beside dataset.json."""
        duplicates = {"duplicates.csv": twin_table(self.pictures, self.twins)} if len(self.twins.pairs) else {}
        return {"manifest.csv": self.columns} | duplicates | ({"leaks.csv": self.leaked} if self.leaked["file"] else {})


def build(
    pieces: Pieces, rules: Rules, left_out: Sequence[tuple[str, str]], notes: Sequence[str], root: Path | None = None
) -> Built:
    """Check and split what is packed.

    Args:
        pieces: the pictures, all of them packed.
        rules: what decides the dataset beside them.
        left_out: (file, reason) of what the layout left out.
        notes: remarks for dataset.json.
        root: where all unreadable pictures, or leaks that nobody decided on, are listed; None = nowhere.

    Raises:
        DataError: if too many pictures are unreadable, the official split leaks, or a class cannot be split.
    """
    card = rules.card
    rows, bad = pieces.all_rows()
    if len(bad) > rules.allow_bad:
        listed = _list_all(root, "unreadable.csv", dict(zip(("file", "reason"), zip(*bad, strict=True), strict=True)))
        raise DataError(
            f"{len(bad):,} of {len(rows):,} pictures cannot be read{listed}:"
            + examples([f"{file}: {reason}" for file, reason in bad]),
            f"mend or remove them, or leave them out with --allow-bad {len(bad)}",
        )
    samples = pieces.samples
    pictures = Pictures(
        list(samples),
        rows,
        np.arange(len(rows)),
        [sample.group for sample in samples],
        np.array([sample.split or "" for sample in samples], dtype="<U5"),
    ).take(rows["channels"] > 0)
    kinds = _kinds(pictures)
    pictures, conflicts = drop_conflicts(pictures)
    unreadable = [(file, f"unreadable: {reason}") for file, reason in bad]
    if not pictures.samples:
        raise nothing_left(card, [*left_out, *unreadable, *conflicts])
    twins = find_twins(pictures, pieces.thumbs)
    leaks = find_leaks(pictures, twins, card.split.group) if card.official else []
    if leaks and rules.on_leak is None:
        raise undecided(leaks, pictures, card, _list_all(root, "leaks.csv", leak_table(leaks, pictures)))
    leaked = leak_table(leaks, pictures)
    dropped = [
        (pictures.samples[leak.picture].file, f"{called(leak.kind)} in {pictures.splits[leak.other]}")
        for leak in (leaks if rules.on_leak == "drop" else [])
    ]
    pictures, kept = divide(pictures, twins, leaks, card, rules.seed, rules.on_leak)
    pictures, twins = pictures.take(kept), twins.take(kept)
    left = find_leaks(pictures, twins, card.split.group)  # of what is written: checked, not assumed
    if rules.on_leak == "allow":
        leaks, leaked = left, leak_table(left, pictures)
    elif left:
        raise RuntimeError(f"{len(left)} pictures are in two splits after dividing, first {left[0]}")
    columns = _columns(pictures, card, rules.seed, pieces)
    info = {
        "format": FORMAT,
        "card": card.name,
        "card_sha256": card.sha256,
        "classes": list(card.classes),
        "split": {
            "rule": "official" if card.official else "stratified",
            "fractions": card.split.fractions,
            "seed": rules.seed,
        },
        "size": rules.size,
        "filter": "bicubic, antialiased",
        "images": len(pictures.samples),
        "kinds": {kind: len(files) for kind, files in kinds.items()},
        "bytes": int(sum(rows["height"].astype(np.int64) * rows["width"] * rows["channels"])),
        "counts": split_counts(columns["label"], columns["split"], card.classes, card.task),
        "totals": {split: int((pictures.splits == split).sum()) for split in SPLITS},
        "duplicates": {
            "equal": int(twins.equal.sum()),
            "near": int((~twins.equal).sum()),
            "near_under_two_labels": sum(
                pictures.samples[one].label != pictures.samples[other].label for one, other in twins.pairs.tolist()
            ),
        },
        "leakage": {"decision": rules.on_leak, "pictures": len(leaks), "kinds": count_leaks(leaks)},
        "notes": list(notes),
        "left_out": [
            {"file": file, "reason": reason} for file, reason in [*left_out, *unreadable, *conflicts, *dropped]
        ],
        "unreadable": len(bad),
        "subsets": _subsets(columns, card),
        "sha256": dataset_sha256(card.classes, columns),
    }
    info["notes"] += _remarks(info, kinds)
    return Built(info, columns, pictures, twins, leaked)


def _list_all(root: Path | None, name: str, table: Mapping[str, Sequence[str]]) -> str:
    """Write the whole list that a message names a part of; return where it is, for the message."""
    if not root:
        return ""
    with atomic_path(root / name) as path:
        write_rows(path, table)
    return f" (listed in {root / name})"


def _kinds(pictures: Pictures) -> dict[str, list[str]]:
    """Return what the files hold, such as grey or RGBA → the files, the most frequent first; of arrays nothing."""
    kinds: dict[str, list[str]] = {}
    for sample, kind in zip(pictures.samples, pictures.rows["kind"].tolist(), strict=True):
        if kind:
            kinds.setdefault(kind.decode(), []).append(sample.file)
    return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))


def _columns(pictures: Pictures, card: Card, seed: int, pieces: Pieces) -> dict[str, list[str]]:
    """Return the columns of manifest.csv as text."""
    samples, rows = pictures.samples, pictures.rows
    splits = pictures.splits.tolist()
    by = strata(pictures, card)
    train = [i for i, split in enumerate(splits) if split == "train"]
    ranks = [""] * len(samples)
    for i, rank in zip(train, nested_ranks([samples[i].id for i in train], [by[i] for i in train], seed), strict=True):
        ranks[i] = str(rank)
    starts = np.cumsum([0, *pieces.sizes()])
    numbers = {"height": rows["height"], "width": rows["width"], "channels": rows["channels"]}
    offsets = starts[pictures.places // PIECE] + rows["offset"]
    columns = {
        "id": [sample.id for sample in samples],
        "file": [sample.file for sample in samples],
        "label": [sample.label for sample in samples],
        "split": splits,
        "group": pictures.groups,
        "rank": ranks,
        **{name: _texts(column) for name, column in numbers.items()},
        "offset": list(map(str, offsets.tolist())),
        "pixels": [row.hex() for row in np.ascontiguousarray(rows["pixels"]).view("V16")[:, 0].tolist()],
    }
    if card.task != "classify":
        columns["stratum"] = by
    if any(sample.text for sample in samples):
        columns["text"] = [sample.text for sample in samples]
    for name in sorted({name for sample in samples for name in sample.attributes}):
        columns[name] = [sample.attributes.get(name, "") for sample in samples]
    return columns


def _texts(column: np.ndarray) -> list[str]:
    """Return numbers as text, equal ones as one object."""
    known = {number: str(number) for number in np.unique(column).tolist()}
    return [known[number] for number in column.tolist()]


def _subsets(columns: dict[str, list[str]], card: Card) -> dict[str, int]:
    """Return fraction → training pictures, of the fractions of the paper."""
    sizes = Counter(
        stratum for stratum, rank in zip(columns.get("stratum", columns["label"]), columns["rank"], strict=True) if rank
    )
    return {f"{fraction:g}": sum(max(1, round(fraction * size)) for size in sizes.values()) for fraction in FRACTIONS}


def twin_table(pictures: Pictures, twins: Twins) -> dict[str, list[str]]:
    """Return the columns of duplicates.csv: a row a pair, with the correlation of near-duplicates."""
    table: dict[str, list[str]] = {name: [] for name in ("kind", "correlation")}
    table["kind"] = ["pixels" if equal else "near" for equal in twins.equal.tolist()]
    table["correlation"] = [f"{value:.3f}" for value in twins.correlations.tolist()]
    return table | _pair_columns(pictures, twins.pairs.tolist())


def leak_table(leaks: Sequence[Leak], pictures: Pictures) -> dict[str, list[str]]:
    """Return the columns of leaks.csv: a row a picture that is also in a more protected split."""
    table = {
        "kind": [leak.kind for leak in leaks],
        "correlation": [f"{leak.correlation:.3f}" if leak.correlation is not None else "" for leak in leaks],
    }
    return table | _pair_columns(pictures, [(leak.picture, leak.other) for leak in leaks])


def _pair_columns(pictures: Pictures, pairs: Sequence[Sequence[int]]) -> dict[str, list[str]]:
    columns = {}
    for place, prefix in enumerate(("", "other_")):
        chosen = [pair[place] for pair in pairs]
        columns[f"{prefix}file"] = [pictures.samples[i].file for i in chosen]
        columns[f"{prefix}split"] = [str(pictures.splits[i]) for i in chosen]
        columns[f"{prefix}label"] = [pictures.samples[i].label for i in chosen]
    return columns


def _remarks(info: dict, kinds: Mapping[str, Sequence[str]]) -> list[str]:
    found, leakage = info["duplicates"], info["leakage"]
    remarks = []
    if len(kinds) > 1:
        usual = next(iter(kinds))
        listed = ", ".join(
            f"{len(files):,} {kind}" + ("" if kind == usual else f" ({some(files)})") for kind, files in kinds.items()
        )
        remarks.append(f"kinds of pictures: {listed}; made grey or RGB as docs/datasets.md says")
    if found["equal"]:
        have = counted(found["equal"], "picture has", "pictures have")
        remarks.append(f"{have} the same pixels as another; they share a group")
    if found["near"]:
        labels = found["near_under_two_labels"]
        other = f", {labels:,} of them with two labels" if labels else ""
        joined = "" if leakage["decision"] == "allow" else "; they share a group"
        pairs = counted(found["near"], "pair of near-duplicates", "pairs of near-duplicates")
        remarks.append(f"{pairs}{other}{joined}; see duplicates.csv")
    if leakage["pictures"]:
        kinds = ", ".join(f"{count:,} {called(kind)}" for kind, count in leakage["kinds"].items())
        done = {"move": "moved there", "drop": "left out", "allow": "kept where they are"}[leakage["decision"]]
        also = counted(leakage["pictures"], "picture")
        remarks.append(f"{also} also in a more protected split ({kinds}): {done}; see leaks.csv")
    return remarks


def some(files: Sequence[str]) -> str:
    """Return the first two files, and a mark if there are more."""
    return ", ".join(files[:2]) + (", …" if len(files) > 2 else "")


def summary(info: dict) -> str:
    """Return what a prepared dataset holds and what was left out, as lines for the console."""
    width = max(len(name) for name in (*info["classes"], "all"))
    lines = [
        f"{info['card']}: {counted(info['images'], 'picture')}, short side at most {info['size']} px, {info['bytes'] / 1e6:,.1f} MB"
    ]
    lines.append(" ".join([" " * (width + 2), *(f"{split:>8}" for split in SPLITS)]))
    counts = info["counts"]
    lines += [
        f"  {name:{width}} " + " ".join(f"{counts[split][name]:8,}" for split in SPLITS) for name in info["classes"]
    ]
    lines.append(f"  {'all':{width}} " + " ".join(f"{info['totals'][split]:8,}" for split in SPLITS))
    lines += [f"note: {note}" for note in info["notes"]]
    lines += _reasons([(item["file"], item["reason"]) for item in info["left_out"]])
    return "\n".join(lines)


def nothing_left(card: Card, left_out: Sequence[tuple[str, str]]) -> DataError:
    """Return the error for a dataset without a picture."""
    return DataError(f"{card.name}: no picture is left" + "".join(f"; {line}" for line in _reasons(left_out)))


def _reasons(left_out: Sequence[tuple[str, str]]) -> list[str]:
    """Return a line for each reason why something is left out."""
    return [f"left out {len(found):,}: {reason} ({some(found)})" for reason, found in by_reason(left_out)]
