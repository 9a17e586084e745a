"""Name a run by what it computes: the hash of its resolved recipe, less what cannot change the result."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from medpeft_cli.recipe.schema import Recipe

INCIDENTAL = (("data", "root"), ("device",), ("workers",), ("train", "checkpoint_seconds"), ("sample",), ("evaluate",))
"""Fields that say where, how fast and how a trained run is sampled and scored, not what is trained."""


def identity(recipe: Recipe) -> str:
    """Return 8 hex digits that two resolved recipes share if and only if they ask for the same run.

    Of a card, a weights file or a pipeline only the last part of its path counts: their contents are hashed into the record.
    """
    return _hash(_essence(recipe))


def cell(recipe: Recipe) -> str:
    """Return 8 hex digits shared by the runs that differ in nothing but the seed: one cell of a table."""
    essence = _essence(recipe)
    del essence["seed"]
    return _hash(essence)


def run_id(recipe: Recipe) -> str:
    """Return model-card-method-amount-seed-identity, as in `vit_base-isic-ssf-f100-s0-3fa9c1d2`.

    The amount is f and the percentage of the training split, or k and the images per class.
    """
    data = recipe.data
    amount = f"k{data.k_shot}" if data.k_shot is not None else f"f{100 * data.fraction:.6g}"
    words = (_short(recipe.pretrained_name), _word(card_name(data.card)), _word(recipe.method.name))
    return "-".join((*words, amount, f"s{recipe.seed}", identity(recipe)))


def card_name(card: str) -> str:
    """Return the name of a card that is given by name or by path."""
    return Path(card).stem if Path(card).suffix in (".yaml", ".yml") else card


def _essence(recipe: Recipe) -> dict[str, Any]:
    values = recipe.model_dump(mode="json")
    for *above, name in INCIDENTAL:
        target = values
        for step in above:
            target = target[step]
        target.pop(name, None)
    values["data"]["card"] = card_name(values["data"]["card"])
    for section, field in (("backbone", "weights"), ("pipeline", "name")):
        if section in values:
            values[section][field] = Path(values[section][field]).name
    return values


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
