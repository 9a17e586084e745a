"""What lies beside a record in a run directory: history, predictions, pictures."""

import json

import numpy as np
from PIL import Image

from medpeft_cli.metrics.predictions import write_predictions


def add_history(folder, epochs=5, value=0.8):
    lines = [
        {"epoch": e, "step": 10 * (e + 1), "train_loss": 1 / (e + 1), "lr": 1e-3, "val": {"loss": 0.5, "f1_macro": value * e / epochs}}
        for e in range(epochs)
    ]  # fmt: skip
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 99, "st')


def add_predictions(folder, classes, n=30, ids=None):
    rng = np.random.default_rng(len(folder.name))
    probabilities = rng.dirichlet(np.ones(len(classes)), n)
    ids = ids or [f"image {i}" for i in range(n)]
    labels = [classes[i % len(classes)] for i in range(n)]
    write_predictions(folder / "predictions.csv", ids, ids, labels, probabilities, classes)


def add_pictures(folder, prompts=("a scan", "no finding")):
    (folder / "images").mkdir()
    (folder / "samples").mkdir()
    lines = []
    for index, prompt in enumerate(prompts):
        name = f"{index:06d}-000.png"
        Image.fromarray(np.full((16, 16, 3), 20 * index, np.uint8)).save(folder / "images" / name)
        lines.append({"file": name, "prompt": prompt, "prompt_index": index, "image_index": 0})
    (folder / "images" / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Image.fromarray(np.zeros((16, 64, 3), np.uint8)).save(folder / "samples" / "step-000010.png")


def fill(results, **pictures):
    """Put history and predictions beside every record, and pictures beside those of text-to-image."""
    for path in sorted(results.rglob("record.json")):
        record = json.loads(path.read_text())
        scores = (record["metrics"] or {}).get("test")
        add_history(path.parent)
        if record["family"] == "unet":
            add_pictures(path.parent, **pictures)
        elif scores:
            add_predictions(path.parent, list(scores["per_class"]))
    return results


COST = {
    "timing": {"train_seconds": 600.0, "images_per_second": 90.0},
    "memory": {"peak_bytes": 2_000_000_000, "measure": "allocated", "device": "cuda"},
    "environment": {"name": "GPU A", "device": "cuda", "versions": {"torch": "2.13.0"}},
    "selection": {"metric": "f1_macro", "epoch": 3, "step": 30, "value": 0.8},
}
"""What a run costs, as `finetune` records it."""


def cost(**changes):
    """COST with some sections changed."""
    return {name: section | changes.get(name, {}) for name, section in COST.items()} | {
        name: section for name, section in changes.items() if name not in COST
    }


def generated(record, method="bias", seed=0, fid=30.0, **changes):
    """A record of a text-to-image run."""
    scores = {"n": 2, "protocol": {}, "overall": {"fid": {"value": fid, "low": fid - 2, "high": fid + 2}}}
    return record("mimic_cxr", method, seed, family="unet", backbone="sd", metrics={"test": scores}, **changes)
