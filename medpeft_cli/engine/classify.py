"""Classification from recipe to record: the whole line is `run_classification`."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medpeft_cli.console import console
from medpeft_cli.data.images import Batches, ImageStore, epoch_order, visits_of
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.engine.assembly import Assembly, assemble, describe, facts, open_dataset, pick_device
from medpeft_cli.engine.frozen import Frozen, frozen_part
from medpeft_cli.engine.loop import Micro, Plan
from medpeft_cli.engine.predict import evaluation_batches, normalise, predict, softmax
from medpeft_cli.engine.restore import adapter_info, restore_adapter
from medpeft_cli.engine.run import finish_training, recorded_run, train, with_search
from medpeft_cli.engine.together import block, dealt, gathered, share_count
from medpeft_cli.engine.transfer import on_device
from medpeft_cli.metrics.classification import point, score
from medpeft_cli.metrics.predictions import read_predictions, write_predictions
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import ClassifyRecipe
from medpeft_cli.runs import ranks
from medpeft_cli.runs.record import Record
from medpeft_cli.runs.skip import refuse_changed_inputs

VALIDATION_METRICS = ("loss", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "auroc_ovr")


def run_classification(loaded: Loaded, results: Path, command: str, *, evaluate: bool = True) -> Path:
    """Fine-tune as a recipe says, score the test split, and return the run directory.

    A half-done run goes on from its checkpoint.

    Args:
        loaded: the resolved recipe.
        results: folder of all results; the run's own folder is results/<recipe stem>/<run id>.
        command: the command line, kept in the record.
        evaluate: score the test split at the end.

    Raises:
        RecipeError, DataError, RunError: as the parts raise them; the record then says `failed` and why.
    """
    with recorded_run(loaded, results, command) as record:
        if "delta" not in record.data:
            record.save(status="running", error=None)
            # --- search, where the recipe asks for one, by trials on the validation split
            recipe = with_search(record, loaded.recipe, _trial)
            # --- data and model
            assembly = assemble(recipe)
            manifest, built = assembly.manifest, assembly.pretrained
            refuse_changed_inputs(record, manifest.sha256, built.weights_sha256)
            describe(assembly)
            record.save(**facts(assembly))
            for stale in record.run_dir.glob(
                "predictions*.csv"
            ):  # of an earlier model; they would be scored as this one's
                stale.unlink(missing_ok=True)
            # --- train; validation picks the epoch
            info = adapter_info(recipe, built, manifest, record.data["id"])
            task = ClassifyTask(assembly, record.run_dir)
            if task.frozen is not None:
                timing = record.data.get("timing", {})
                record.save(
                    timing=timing
                    | {"frozen_seconds": round(timing.get("frozen_seconds", 0.0) + task.frozen.seconds, 3)}
                )
            train(assembly, task, info, record)
        finish_training(record)
        # --- test split, once
        if evaluate and not ranks.follows():
            score_test(record, loaded.recipe)
    return record.run_dir


def _trial(recipe: ClassifyRecipe, folder: Path) -> tuple[Assembly, "ClassifyTask"]:
    assembly = assemble(recipe)
    return assembly, ClassifyTask(assembly, folder)


def score_test(record: Record, recipe: ClassifyRecipe, weights: Path | None = None) -> None:
    """Score the test split: once by the model into predictions.csv, from then on from that file alone.

    Args:
        record: of a trained run.
        recipe: the run's, with what is to be scored otherwise.
        weights: where the backbone's local weights are now; None = where they were.

    Raises:
        DataError: if data or weights are not those the run was trained with.
    """
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
    """Batches, loss and validation of classification. The test split is not reachable from here.

    Args:
        assembly: data and adapted model.
        run_dir: where the predictions of the validation split go.
        table: of what the frozen part of the network makes of the pictures.
    """

    def __init__(self, assembly: Assembly, run_dir: Path, table: type[Frozen] = Frozen):
        recipe, manifest = assembly.recipe, assembly.manifest
        self.recipe, self.manifest, self.spec = recipe, manifest, assembly.pretrained.input
        self.device, self.workers, self.run_dir = assembly.device, assembly.workers, run_dir
        self.store = ImageStore(manifest)
        self.train_indices = manifest.training_subset(recipe.data.fraction, recipe.data.k_shot)
        self.val_indices = manifest.indices("val")
        self.frozen = frozen_part(assembly, self.train_indices, self.val_indices, table)
        steps = math.ceil(len(self.train_indices) / recipe.train.batch_size)
        warmup = round(recipe.train.warmup_epochs * steps)
        self.plan = Plan(recipe.train.epochs * steps, steps, warmup, recipe.train.select, recipe.train.patience_epochs)
        counts = np.bincount(manifest.labels[self.train_indices], minlength=len(manifest.classes))
        balanced = counts.sum() / (len(counts) * np.maximum(counts, 1))
        weights = balanced if recipe.train.class_weights == "balanced" else np.ones(len(counts))
        self.class_weights = weights  # (K,) float64
        self.loss_weights = torch.tensor(weights, dtype=torch.float32, device=self.device)

    def micro_batches(self, epoch: int, first_step: int) -> Iterator[Micro]:
        """Yield (images, labels, divisor) shares; an epoch is cut into near-equal steps, a step into near-equal shares.

        Of a network whose frozen part is computed already, features take the images' place.
        """
        train = self.recipe.train
        labels = self.manifest.labels
        order = epoch_order(self.train_indices, labels, self.recipe.seed, epoch, train.sampling)
        plan, shares = [], []
        for step, indices in enumerate(np.array_split(order, self.plan.steps_per_epoch)):
            parts = np.array_split(indices, share_count(len(indices), train.micro_batch_size))
            divisor = float(self.class_weights[labels[indices]].sum())
            for part, share in enumerate(parts):
                plan.append((step, part, part == len(parts) - 1, len(share), divisor))
                shares.append(share)
        start = sum(step < first_step for step, *_ in plan)
        mine = slice(start + ranks.here.rank, None, ranks.here.size)
        inputs = self._features(shares, epoch, mine) if self._on_features else self._images(shares, epoch, mine)
        for (step, part, last, count, divisor), batch in dealt(plan[start:], inputs):
            yield Micro(step, part, last, count, None if batch is None else (*batch, divisor))

    def _images(self, shares: Sequence[np.ndarray], epoch: int, mine: slice) -> Iterator[tuple[Tensor, Tensor]]:
        batches = Batches(
            self.store, self.manifest.labels, self.spec, self.recipe.augment, shares, self.recipe.seed, epoch, self.workers,
            mine.start, mine.step,
        )  # fmt: skip
        for images, targets in on_device(batches, self.device):
            yield normalise(images, self.spec), targets

    def _features(self, shares: Sequence[np.ndarray], epoch: int, mine: slice) -> Iterator[tuple[Tensor, Tensor]]:
        def read() -> Iterator[tuple[Tensor, Tensor]]:
            for indices, visits in zip(shares[mine], visits_of(shares)[mine], strict=True):
                hidden = self.frozen.hidden(indices.tolist(), self.frozen.versions(epoch, visits))
                yield hidden, torch.from_numpy(self.manifest.labels[indices])

        return on_device(read(), self.device)

    def loss(self, model: nn.Module, micro: Micro) -> Tensor:
        """Return the share's part of the (class-weighted, label-smoothed) mean cross-entropy of its step."""
        inputs, targets, divisor = micro.batch
        logits = (self.frozen.rest(model, inputs) if self._on_features else model(inputs)).float()
        smoothing = self.recipe.train.label_smoothing
        return (
            functional.cross_entropy(logits, targets, self.loss_weights, reduction="sum", label_smoothing=smoothing)
            / divisor
        )

    def validate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the validation split's metrics."""
        logits = gathered(self._logits(model, block))
        labels = self.manifest.labels[self.val_indices]
        return {name: point(softmax(logits), labels, name) for name in VALIDATION_METRICS}

    def outputs(self, model: nn.Module) -> Tensor:
        """Return the logits of the validation split, float32 (N, K) on the CPU."""
        return self._logits(model)

    def _logits(self, model: nn.Module, part: Callable[[Sequence], Sequence] = list) -> Tensor:
        """Return the logits of the validation split, or of a part of it."""
        if self.frozen is not None:
            return self.frozen.logits(model, np.asarray(part(self.val_indices)))
        batches = evaluation_batches(self.manifest, self.val_indices, self.spec, self.recipe, part)
        return predict(model, batches, self.spec, self.device, self.recipe.train.precision)

    @property
    def _on_features(self) -> bool:
        return self.frozen is not None and self.frozen.trains

    def scores(self, outputs: Tensor) -> dict[str, Any]:
        """Write predictions-val.csv and return the metrics that follow from it."""
        path = self.run_dir / "predictions-val.csv"
        _write_predictions(path, self.manifest, self.val_indices, outputs)
        data = {"classes": self.manifest.classes, "manifest_sha256": self.manifest.sha256}
        return _scores(path, data, self.recipe)


def _write_predictions(path: Path, manifest: Manifest, indices: np.ndarray, logits: Tensor) -> None:
    ids = [manifest.ids[index] for index in indices]
    labels = [manifest.classes[label] for label in manifest.labels[indices]]
    groups = [manifest.groups[index] for index in indices]
    write_predictions(path, ids, groups, labels, softmax(logits), manifest.classes)


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
