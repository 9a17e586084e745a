"""Write the report page of a prepared dataset: one file, no network, no script; all that comes from the data is escaped."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from medpeft_cli.data.card import SPLITS, Card, names_of
from medpeft_cli.data.checks import Pictures, Twins, by_reason
from medpeft_cli.data.duplicates import CORRELATION, DISTANCE, Thumbs
from medpeft_cli.data.images import ImageStore
from medpeft_cli.data.leaks import called
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.words import counted

TEMPLATE = Path(__file__).with_name("page.html")
SHEET = 12  # pictures of a class; fewer with many classes
SHOWN_PAIRS, SHOWN_FILES, SHOWN_LEAKS, SHOWN_TEXTS = 24, 20, 20, 3
PIXELS = 128  # longer side of a small picture
SAMPLED = 20_000  # pictures whose grey values are counted
BINS = 32


def write_page(
    path: Path,
    *,
    card: Card,
    manifest: Manifest,
    pictures: Pictures,
    twins: Twins,
    leaked: Mapping[str, Sequence[str]],
    thumbs: Thumbs,
) -> None:
    """Write report.html.

    Args:
        path: of the page.
        card: title, licence, classes.
        manifest: the dataset, its pixels in place.
        pictures: what was packed of its pictures, in the manifest's order.
        twins: equal pictures and near-duplicates among them.
        leaked: columns of leaks.csv.
        thumbs: returns the thumbnails of ascending places, uint8 (M, 32, 32).
    """
    store = ImageStore(manifest)
    grey = _grey_values(pictures, thumbs)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["n"] = lambda number: f"{number:,}"
    environment.filters["counted"] = counted
    short = np.minimum(pictures.rows["original_height"], pictures.rows["original_width"])
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        info=manifest.info,
        splits=SPLITS,
        classes=_classes(card, manifest, store, pictures, grey),
        expects=bool(set(card.classes) & set(card.expected)),
        charts=[
            _histogram(short, "short side of the originals, pixels"),
            _bars(grey.sum(axis=0), "0", "255", "grey values, share of pixels"),
        ],
        pairs=_pairs(store, manifest, pictures, twins),
        leaks=_leaks(leaked),
        left_out=_left_out(manifest.info),
        texts=_texts(manifest.texts),
        rule={"bits": DISTANCE, "correlation": CORRELATION},
    )
    path.write_text(page, encoding="utf-8", errors="replace")


def _classes(
    card: Card, manifest: Manifest, store: ImageStore, pictures: Pictures, grey: np.ndarray
) -> list[dict[str, Any]]:
    """Return what is shown of each class; without classes, of all pictures."""
    members: dict[str, list[int]] = {name: [] for name in card.classes or ("all pictures",)}
    for i, sample in enumerate(pictures.samples):
        for name in names_of(sample.label, card.task) if card.classes else members:
            members[name].append(i)
    count = SHEET if len(members) <= 12 else SHEET // 2
    ranks = manifest.ranks.tolist()
    shown = []
    for name, mine in members.items():
        counts = {split: manifest.info["counts"][split].get(name, manifest.info["totals"][split]) for split in SPLITS}
        first = sorted(mine, key=lambda i: (not ranks[i], ranks[i], i))[:count]  # those of the smallest subsets
        shown.append(
            {
                "name": name,
                "counts": counts,
                "total": len(mine),
                "expected": card.expected.get(name),
                "grey": _bars(grey[mine].sum(axis=0), "0", "255", ""),
                "sheet": [_small(store, manifest, i) for i in first],
            }
        )
    largest = max((entry["total"] for entry in shown), default=1) or 1
    for entry in shown:
        entry["shares"] = {split: 100 * count / largest for split, count in entry["counts"].items()}
    return shown


def _small(store: ImageStore, manifest: Manifest, index: int) -> dict[str, Any]:
    """Return a small JPEG of a picture as a data address, with its id and size."""
    image = Image.fromarray(store.stored(index))
    image.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    width, height = image.size
    return {
        "address": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "id": manifest.ids[index],
        "width": width,
        "height": height,
    }


def _pairs(store: ImageStore, manifest: Manifest, pictures: Pictures, twins: Twins) -> list[dict[str, Any]]:
    """Return pairs to show: those in two splits first, then those with two labels, then near-duplicates."""

    def urgency(k: int) -> tuple:
        one, other = twins.pairs[k]
        labels = pictures.samples[one].label == pictures.samples[other].label
        return bool(pictures.splits[one] == pictures.splits[other]), labels, bool(twins.equal[k]), k

    chosen = sorted(range(len(twins.pairs)), key=urgency)[:SHOWN_PAIRS]
    return [
        {
            "kind": "same pixels" if twins.equal[k] else f"correlation {twins.correlations[k]:.2f}",
            "sides": [
                _small(store, manifest, i)
                | {"split": str(pictures.splits[i]), "label": pictures.samples[i].label or "no class"}
                for i in twins.pairs[k].tolist()
            ],
        }
        for k in chosen
    ]


def _leaks(leaked: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    rows = [dict(zip(leaked, row, strict=True)) for row in zip(*leaked.values(), strict=True)][:SHOWN_LEAKS]
    return [row | {"kind": called(row["kind"])} for row in rows]


def _left_out(info: dict) -> list[dict[str, Any]]:
    """Return reason, count and some files, the most frequent reason first."""
    reasons = by_reason((item["file"], item["reason"]) for item in info["left_out"])
    return [{"reason": reason, "count": len(found), "files": found[:SHOWN_FILES]} for reason, found in reasons]


def _texts(texts: Sequence[str] | None) -> dict[str, Any] | None:
    if texts is None:
        return None
    words = np.array([len(text.split()) for text in texts])
    seen = Counter(texts)
    return {
        "empty": int((words == 0).sum()),
        "distinct": len(seen),
        "median": float(np.median(words)) if len(words) else 0,
        "longest": int(words.max(initial=0)),
        "chart": _histogram(words, "words a text"),
        "examples": [text for text in seen if text.strip()][:SHOWN_TEXTS],
    }


def _grey_values(pictures: Pictures, thumbs: Thumbs) -> np.ndarray:
    """Return how often each grey value occurs in each picture's thumbnail, int64 (N, 32); of many pictures a sample."""
    counted = np.zeros((len(pictures.samples), BINS), dtype=np.uint16)
    step = -(-len(counted) // SAMPLED)
    chosen = np.arange(0, len(counted), max(step, 1))
    for block in np.array_split(chosen, -(-len(chosen) // 2048) or 1):
        values = thumbs(pictures.places[block]).reshape(len(block), -1) // (256 // BINS)
        for value in range(BINS):
            counted[block, value] = (values == value).sum(axis=1)
    return counted


def _histogram(values: np.ndarray, title: str) -> dict[str, Any]:
    """Return the histogram of whole numbers; of equal ones their value. The title is "what" or "what, unit"."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    edges = np.linspace(low - 0.5, high + 0.5, min(BINS, high - low + 1) + 1)
    if low == high:
        what, _, unit = title.partition(", ")
        return {"heights": [], "title": f"{what}: all {low:,} {unit}".rstrip()}
    return _bars(np.histogram(values, edges)[0], f"{low:,}", f"{high:,}", title)


def _bars(counts: np.ndarray, low: str, high: str, title: str) -> dict[str, Any]:
    """Return a histogram as heights of 0 to 100, with the words at its ends."""
    heights = 100 * counts / max(counts.max(initial=0), 1)
    return {"heights": [round(float(height), 1) for height in heights], "low": low, "high": high, "title": title}
