"""Name a run by what it computes: the hash of its resolved recipe, less what cannot change the result."""

import hashlib
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from medpeft_cli.recipe.schema import Recipe

INCIDENTAL = (
    ("data", "root"),
    ("device",),
    ("workers",),
    ("track",),
    ("train", "checkpoint_seconds"),
    ("train", "compile"),
    ("sample",),
    ("evaluate",),
)
"""Fields that say where, how fast and how a trained run is sampled and scored, not what is trained."""


def identity(recipe: Recipe) -> str:
    """Return 8 hex digits that two resolved recipes share if and only if they ask for the same run.

    Of a card, a weights file or a pipeline only the last part of its path counts: their contents are hashed into the record.
    """
    return _hash(_reduced(recipe.model_dump(mode="json")))


def cell(recipe: Recipe) -> str:
    """Return 8 hex digits shared by the runs that differ in nothing but the seed: one cell of a table."""
    values = _reduced(recipe.model_dump(mode="json"))
    del values["seed"]
    return _hash(values)


def run_id(recipe: Recipe) -> str:
    """Return model-card-method-amount-seed-identity, as in `vit_base-isic-ssf-f100-s0-3fa9c1d2`.

    The amount is f and the percentage of the training split, or k and the images per class.
    """
    return f"{_setting(recipe)}-s{recipe.seed}-{identity(recipe)}"


def study_id(recipe: Recipe) -> str:
    """Return model-card-method-amount-search-cell, as in `vit_base-isic-ssf-f100-search-9b1c04aa`: all seeds share it."""
    return f"{_setting(recipe)}-search-{cell(recipe)}"


def _setting(recipe: Recipe) -> str:
    data = recipe.data
    amount = f"k{data.k_shot}" if data.k_shot is not None else f"f{100 * data.fraction:.6g}"
    return "-".join((_short(recipe.pretrained_name), _word(card_name(data.card)), _word(recipe.method.name), amount))


def card_name(card: str) -> str:
    """Return the name of a card that is given by name or by path."""
    return Path(card).stem if Path(card).suffix in (".yaml", ".yml") else card


def essence(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides a run's result: a resolved recipe less INCIDENTAL, and of paths the last part.

    Args:
        recipe: plain values, as `model_dump(mode="json")` gives them and a record holds them; what is missing stays so.
    """
    return _reduced(deepcopy(dict(recipe)))


def _reduced(values: dict[str, Any]) -> dict[str, Any]:
    if not _section(values, "search").get("trials"):  # a recipe that searches nothing is the recipe without it
        values.pop("search", None)
    if (augment := _section(values, "augment")).get("views", ...) is None:  # as before there was the field
        del augment["views"]
    for *above, name in INCIDENTAL:
        _section(values, *above).pop(name, None)
    for section, field, short in (
        ("data", "card", card_name),
        ("backbone", "weights", _last),
        ("pipeline", "name", _last),
    ):
        target = _section(values, section)
        if isinstance(path := target.get(field), str):
            target[field] = short(path)
    return values


def _section(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a map inside a recipe; an empty one where a record has none."""
    for name in names:
        values = found if isinstance(found := values.get(name), dict) else {}
    return values


def _last(path: str) -> str:
    return Path(path).name


def _hash(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _short(name: str) -> str:
    """Return a name up to its patch size or tag, without its owner: `hf-hub:timm/vit_base_patch16_224.mae` → `vit_base`."""
    name = re.split(r"[:/]", name.rstrip("/"))[-1].removesuffix(".safetensors")
    return _word(re.split(r"\.|_patch\d", name)[0])


def _word(text: str) -> str:
    """Return text with only characters that are safe in a folder's name, the separating hyphen excluded."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text)[:40].strip("_") or "unnamed"
