"""Records made by hand: what `medpeft finetune` writes, with chosen scores."""

import hashlib
import json
from pathlib import Path

import pytest

TITLES = {
    "cnn": {"full": "Full FT", "linear": "Linear probing", "norm": "BN tuning", "bias": "Bias Tuning", "ssf": "SSF", "tsa": "TSA"},
    "vit": {
        "full": "Full FT", "linear": "Linear probing", "attention": "Attention tuning", "bias": "BitFit", "lora": "LoRA",
        "ssf": "SSF", "adaptformer": "AdaptFormer", "norm": "LayerNorm tuning",
    },
}  # fmt: skip
COUNTS = {"full": 85_800_192, "linear": 0, "attention": 28_500_480, "bias": 102_912, "lora": 589_824, "ssf": 203_520,
          "adaptformer": 101_436, "norm": 38_400, "tsa": 10_616_832}  # fmt: skip
CARDS = {
    "isic": "HAM10000",
    "breastus": "BreastUS",
    "fitzpatrick": "FitzPatrick",
    "smdg": "SMDG",
    "pneumonia": "Pneumonia",
}


def estimate(value):
    return (
        {"value": value, "low": None, "high": None}
        if value is None
        else {"value": value, "low": value - 0.04, "high": value + 0.04}
    )


def build(dataset="isic", method="ssf", seed=0, value=0.8, *, family="vit", status="finished", demo=False, fraction=1.0,
          backbone="vit_base_patch16_224", title=None, classes=("nv", "mel", "bcc"), manifest="a" * 64, revision=1,
          recipe=None, error=None, n=1503, **changes):  # fmt: skip
    """One record as a dictionary; `value` is the F1, other metrics follow from it."""
    resolved = {
        "task": "classify",
        "data": {"card": dataset, "root": f"data/{dataset}", "fraction": fraction, "k_shot": None},
        "backbone": {"name": backbone, "weights": "pretrained"},
        "method": {"name": method},
        "train": {"lr": 0.001, "epochs": 30},
        "device": "auto",
        "seed": seed,
    }
    for key, change in (recipe or {}).items():
        resolved[key] = resolved.get(key, {}) | change if isinstance(change, dict) else change
    cell = hashlib.sha256(json.dumps(resolved | {"seed": None, "demo": demo}, sort_keys=True).encode()).hexdigest()[:8]
    identity = hashlib.sha256(f"{cell}{seed}".encode()).hexdigest()[:8]
    k = len(classes)
    scores = {
        "n": n,
        "protocol": {"bootstrap": 1000, "confidence": 0.95, "unit": "image"},
        "overall": {"f1_macro": estimate(value), "ece": estimate(None if value is None else round(1 - value, 3))},
        "per_class": {name: {"support": 10, "precision": estimate(value), "recall": estimate(value), "f1": estimate(value),
                             "auroc": estimate(0.9), "average_precision": estimate(0.8)} for name in classes},
        "confusion": [[8 if i == j else 1 for j in range(k)] for i in range(k)],
    }  # fmt: skip
    return {
        "schema_version": 1,
        "results_revision": revision,
        "id": f"{backbone}-{dataset}-{method}-f{100 * fraction:.0f}-s{seed}-{identity}",
        "identity": identity,
        "cell": cell,
        "status": status,
        "demo": demo,
        "command": f"medpeft finetune recipes/{dataset}_{method}.yaml",
        "recipe": resolved,
        "family": family,
        "backbone_title": backbone,
        "method_title": TITLES.get(family, {}).get(method, method),
        "card": {"name": dataset, "title": title or CARDS.get(dataset, dataset), "sha256": "c" * 64},
        "data": {"manifest_sha256": manifest, "classes": list(classes), "train_images": 7511},
        "parameters": {
            "total": 86_000_000,
            "frozen": 0,
            "method": COUNTS.get(method, 1234),
            "head": 769 * k,
            "moving_buffers": 0,
        },
        "metrics": {"test": scores} if status == "finished" else None,
        "error": error,
    } | changes


def put(results: Path, *records: dict) -> Path:
    """Write records as `medpeft finetune` lays them out."""
    for record in records:
        folder = results / record["recipe"]["data"]["card"] / record["id"].replace("/", "_")[:100]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
    return results


@pytest.fixture
def record():
    """The function that builds one record."""
    return build


@pytest.fixture
def results(tmp_path):
    """The function that writes records into a fresh results folder and returns the folder."""
    return lambda *records: put(tmp_path / "results", *records)
