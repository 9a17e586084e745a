"""Classification from recipe to record: the whole line is `run_classification`."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from medpeft_cli.console import console
from medpeft_cli.data.images import Batches, ImageStore, epoch_order
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.engine.assembly import Assembly, assemble, describe, facts, open_dataset, pick_device
from medpeft_cli.engine.checkpoint import Checkpoint
from medpeft_cli.engine.failures import explained
from medpeft_cli.engine.loop import Micro, fit
from medpeft_cli.engine.predict import evaluation_batches, normalise, predict, softmax
from medpeft_cli.engine.restore import adapter_info, restore_adapter
from medpeft_cli.errors import DataError, RunError
from medpeft_cli.files import sha256_file, write_text
from medpeft_cli.methods.state import TENSOR_FILE, save_adapter, set_delta
from medpeft_cli.metrics.classification import point, score
from medpeft_cli.metrics.predictions import read_predictions, write_predictions
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import ClassifyRecipe
from medpeft_cli.runs.record import Record, run_lock
from medpeft_cli.runs.skip import finished_run, refuse_changed_inputs, run_directory

VALIDATION_METRICS = ("loss", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "auroc_ovr")
RELOAD_TOLERANCE = 1e-3  # of the logits, on devices whose sums are not reproducible; on a CPU they must be equal


def run_classification(loaded: Loaded, results: Path, command: str, *, evaluate: bool = True) -> Path:
    """Fine-tune as a recipe says, score the test split, and return the run directory.

    A finished run is left as it is, a half-done one goes on from its checkpoint.

    Args:
        loaded: the resolved recipe.
        results: folder of all results; the run's own folder is results/<recipe stem>/<run id>.
        command: the command line, kept in the record.
        evaluate: score the test split at the end.

    Raises:
        RecipeError, DataError, RunError: as the parts raise them; the record then says `failed` and why.
    """
    recipe = loaded.recipe
    run_dir = run_directory(loaded, results)
    with run_lock(run_dir):
        # --- finished, half done, or new
        record = Record.open(run_dir, loaded, command)
        if finished_run(loaded, results, evaluate=evaluate):  # by another process, since the command started
            return run_dir
        try:
            with explained(recipe):
                if "delta" not in record.data:
                    record.save(status="running", error=None)
                    # --- data and model
                    assembly = assemble(recipe)
                    refuse_changed_inputs(record, assembly.manifest.sha256, assembly.built.weights_sha256)
                    describe(assembly)
                    record.save(**facts(assembly))
                    # --- train; validation picks the epoch
                    train(assembly, run_dir, record)
                record.save(status="trained", error=None)
                Checkpoint(run_dir / "checkpoint").remove()
                # --- test split, once
                if evaluate:
                    _score_test(record, recipe)
        except KeyboardInterrupt:
            record.save(status="cancelled")
            console.say(f"stopped; the same command goes on from the last checkpoint: {command}")
            raise
        except Exception as error:
            record.save(status="failed", error=f"{type(error).__name__}: {error}")
            raise
    return run_dir


def train(assembly: Assembly, run_dir: Path, record: Record) -> None:
    """Fit, save the adapter, prove that it reloads, and complete the record up to validation."""
    recipe, adapted = assembly.recipe, assembly.adapted
    for stale in run_dir.glob("predictions*.csv"):  # of an earlier model; they would be scored as this one's
        stale.unlink()
    task = ClassifyTask(assembly)
    checkpoint = Checkpoint(run_dir / "checkpoint")
    with console.progress(recipe.train.epochs * task.steps_per_epoch, record.data["id"], "steps") as advance:
        state, best, memory = fit(adapted, task, recipe.train, recipe.seed, assembly.device, checkpoint, advance)
    write_text(run_dir / "history.jsonl", "".join(_json_line(entry) for entry in state.history))
    set_delta(adapted, best)
    info = adapter_info(recipe, assembly.built, assembly.manifest, record.data["id"])
    save_adapter(adapted, run_dir / "adapter", info)
    logits = predict(adapted.model, task.val, assembly.built.input, assembly.device, recipe.train.precision)
    _prove_reload(run_dir / "adapter", task, logits, assembly)
    _write_predictions(run_dir / "predictions-val.csv", assembly.manifest, task.val_indices, logits)
    delta = _delta_facts(run_dir / "adapter")
    console.say(
        f"trained   best {recipe.train.select} {state.best_value:.3f} in epoch {state.best_epoch} · adapter {delta['tensors']} tensors, "
        f"{delta['bytes']:,} bytes, reloads into a fresh model with the same logits"
    )
    record.save(
        delta=delta,
        timing={
            "train_seconds": round(state.seconds, 3),
            "images_per_second": round(state.images / max(state.seconds, 1e-9), 2),
        },
        memory=memory | {"device": str(assembly.device)},
        selection={"metric": recipe.train.select, "epoch": state.best_epoch, "value": state.best_value},
        metrics={"val": _scores(run_dir / "predictions-val.csv", record.data["data"], recipe)},
    )


def evaluate_run(run_dir: Path, weights: Path | None = None, **changes: Any) -> Record:
    """Score the test split of a trained run: once by the model into predictions.csv, from then on from that file alone.

    Args:
        run_dir: a run that `finetune` has trained.
        weights: where the backbone's local weights are now; None = where they were.
        changes: fields of the recipe's `evaluate` to use instead, such as bootstrap=5000.

    Raises:
        DataError: if the run is not trained yet, or its data or weights are not those it was trained with.
    """
    Record.read(run_dir)  # before a lock file is made in a folder that is no run
    with run_lock(run_dir):
        record = Record.read(run_dir)
        if "delta" not in record.data:
            raise DataError(
                f"{run_dir}: not trained yet (status {record.data['status']!r})", f"finish it: {record.data['command']}"
            )
        recipe = record.recipe
        recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=changes)})
        with explained(recipe):
            _score_test(record, recipe, weights)
    return record


def _score_test(record: Record, recipe: ClassifyRecipe, weights: Path | None = None) -> None:
    """Write predictions.csv if it is not there, and the metrics that follow from it."""
    path = record.run_dir / "predictions.csv"
    started = time.monotonic()
    if not path.is_file():
        _, manifest = open_dataset(recipe)
        refuse_changed_inputs(record, manifest.sha256)
        device = pick_device(recipe.device)
        restored = restore_adapter(record.run_dir / "adapter", weights)
        restored.adapted.model.to(device)
        indices = manifest.indices("test")
        batches = evaluation_batches(manifest, indices, restored.input, recipe)
        with console.progress(len(indices), "test", "images") as advance:
            logits = predict(restored.adapted.model, batches, restored.input, device, recipe.train.precision, advance)
        _write_predictions(path, manifest, indices, logits)
        record.data["timing"]["eval_seconds"] = round(time.monotonic() - started, 3)
    test = _scores(path, record.data["data"], recipe)
    record.save(status="finished", error=None, metrics=record.data["metrics"] | {"test": test})


class ClassifyTask:
    """Batches, loss and validation of classification. The test split is not reachable from here."""

    def __init__(self, assembly: Assembly):
        recipe, manifest = assembly.recipe, assembly.manifest
        self.recipe, self.manifest, self.spec, self.device = recipe, manifest, assembly.built.input, assembly.device
        self.workers = assembly.workers
        self.store = ImageStore(manifest)
        self.train_indices = manifest.training_subset(recipe.data.fraction, recipe.data.k_shot)
        self.val_indices = manifest.indices("val")
        self.val = evaluation_batches(manifest, self.val_indices, self.spec, recipe)
        self.steps_per_epoch = math.ceil(len(self.train_indices) / recipe.train.batch_size)
        counts = np.bincount(manifest.labels[self.train_indices], minlength=len(manifest.classes))
        balanced = counts.sum() / (len(counts) * np.maximum(counts, 1))
        weights = balanced if recipe.train.class_weights == "balanced" else np.ones(len(counts))
        self.class_weights = weights  # (K,) float64
        self.loss_weights = torch.tensor(weights, dtype=torch.float32, device=self.device)

    def micro_batches(self, epoch: int, first_step: int) -> Iterator[Micro]:
        """Yield (images, labels, divisor) shares; an epoch is cut into near-equal steps, a step into near-equal shares."""
        train = self.recipe.train
        labels = self.manifest.labels
        order = epoch_order(self.train_indices, labels, self.recipe.seed, epoch, train.sampling)
        plan, shares = [], []
        for step, indices in enumerate(np.array_split(order, self.steps_per_epoch)):
            parts = np.array_split(indices, math.ceil(len(indices) / train.micro_batch_size))
            divisor = float(self.class_weights[labels[indices]].sum())
            for part, share in enumerate(parts):
                plan.append((step, part, part == len(parts) - 1, len(share), divisor))
                shares.append(share)
        start = sum(step < first_step for step, *_ in plan)
        batches = Batches(
            self.store, labels, self.spec, self.recipe.augment, shares, self.recipe.seed, epoch, self.workers, start
        )
        for (step, part, last, count, divisor), (images, targets) in zip(plan[start:], batches, strict=True):
            images = normalise(images.to(self.device, non_blocking=True), self.spec)
            yield Micro(step, part, last, count, (images, targets.to(self.device, non_blocking=True), divisor))

    def loss(self, model: nn.Module, micro: Micro) -> Tensor:
        """Return the share's part of the (class-weighted, label-smoothed) mean cross-entropy of its step."""
        images, targets, divisor = micro.batch
        logits = model(images).float()
        smoothing = self.recipe.train.label_smoothing
        return (
            functional.cross_entropy(logits, targets, self.loss_weights, reduction="sum", label_smoothing=smoothing)
            / divisor
        )

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return the validation split's metrics."""
        logits = predict(model, self.val, self.spec, self.device, self.recipe.train.precision)
        labels = self.manifest.labels[self.val_indices]
        return {name: point(softmax(logits), labels, name) for name in VALIDATION_METRICS}


def _prove_reload(folder: Path, task: ClassifyTask, logits: Tensor, assembly: Assembly) -> None:
    """Load the saved adapter into a fresh model; it must give the validation logits again."""
    fresh = restore_adapter(folder)
    fresh.adapted.model.to(assembly.device).eval()
    again = predict(fresh.adapted.model, task.val, fresh.input, assembly.device, assembly.recipe.train.precision)
    tolerance = 0.0 if assembly.device.type == "cpu" else RELOAD_TOLERANCE
    difference = float((again - logits).abs().max())
    if not difference <= tolerance:
        raise RunError(
            f"{folder}: the saved adapter does not reproduce the model: validation logits differ by {difference:.3g}",
            "this is a fault of medpeft or of the method; please report it with the run's record.json",
        )


def _write_predictions(path: Path, manifest: Manifest, indices: np.ndarray, logits: Tensor) -> None:
    ids = [manifest.ids[index] for index in indices]
    labels = [manifest.classes[label] for label in manifest.labels[indices]]
    groups = [manifest.groups[index] for index in indices]
    write_predictions(path, ids, groups, labels, softmax(logits), manifest.classes)


def _delta_facts(folder: Path) -> dict[str, Any]:
    path = folder / TENSOR_FILE
    with safe_open(path, framework="pt") as tensors:
        return {"tensors": len(tensors.keys()), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _scores(path: Path, data: dict[str, Any], recipe: ClassifyRecipe) -> dict[str, Any]:
    """Score a predictions file; runs on the same data meet the same resamples, so that they can be paired."""
    classes = tuple(data["classes"])
    _, groups, labels, probabilities = read_predictions(path, classes)
    return score(
        probabilities,
        labels,
        classes,
        bootstrap=recipe.evaluate.bootstrap,
        confidence=recipe.evaluate.confidence,
        seed=int(data["manifest_sha256"][:8], 16),
        groups=groups if len(set(groups)) < len(groups) else None,  # patients are resampled whole
    )


def _json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
