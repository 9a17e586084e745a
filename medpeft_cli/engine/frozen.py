"""Frozen work done once: what the part of a network that no training changes makes of each picture, kept on disk for all runs."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medpeft_cli.console import console
from medpeft_cli.data.images import Batches, ImageStore, draw_of, epoch_order, visits_of
from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.loop import autocast
from medpeft_cli.engine.predict import normalise
from medpeft_cli.engine.rows import KEY, RowStore, cache_folder
from medpeft_cli.engine.together import shared
from medpeft_cli.engine.transfer import on_device
from medpeft_cli.errors import RunError
from medpeft_cli.models.backbones import tensors_sha256
from medpeft_cli.models.cut import Cut, find_cut
from medpeft_cli.models.sites import example_inputs
from medpeft_cli.runs.environment import versions
from medpeft_cli.runs.stop import leave_if_asked

LIBRARIES = ("torch", "timm", "pillow")  # whose arithmetic the features are
AT_ONCE = 64  # always so many, filled up where fewer are left: what is made of a picture does not depend on how many there are
TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}  # batches of another size round otherwise
LOOKED_AT = 8  # rows that are compared with what the network computes, before a training relies on them
MOST_OF_DISK = 0.5  # of what is free


class Frozen:
    """The lower part of an adapted network as a table: one row a picture, or a version of it.

    The table lies beside the prepared dataset. Its name is a hash of all that the lower part computes with, its keys are those of
    the pictures: runs of all methods, rates, seeds and fractions share it.

    Args:
        assembly: data and adapted model; the model is put into eval mode.
        cut: where the model is cut.

    Attributes:
        trains: training reads the table too, not validation alone: without augmentation, or with `augment.views`.
        seconds: spent in filling the table.
    """

    def __init__(self, assembly: Assembly, cut: Cut):
        self.recipe, self.manifest, self.spec = assembly.recipe, assembly.manifest, assembly.input
        self.model, self.device, self.workers = assembly.adapted.model, assembly.device, assembly.workers
        self.augment = assembly.recipe.augment
        self.trains = not self.augment.random or self.augment.views is not None
        self.cut, self.seconds = cut, 0.0
        (images,), _ = example_inputs(self.model, assembly.adapted.family, self.spec.size)
        example = self._below(images)
        self.dtype = example.dtype
        self.rows = RowStore(cache_folder(self.manifest.root) / f"frozen-{self._name()}", example.shape[1:], np.float32)

    def fill(self, train: np.ndarray, val: np.ndarray) -> bool:
        """Compute the rows that a training needs and that are not in the table yet; False if the disk has no room for them.

        Args:
            train: indices of the training pictures.
            val: indices of the validation pictures.
        """
        places = {self.key(index, version): (version, index) for version, index in self._shown(train, val)}
        needed = len(self.rows.missing(list(places))) * self.rows.row_bytes
        if needed > MOST_OF_DISK * shutil.disk_usage(self.manifest.root).free:
            console.say(f"frozen    not kept: {needed / 1e9:.1f} GB of features are more than half of the free disk")
            return False
        started = time.monotonic()
        try:
            self.rows.fill(list(places), "frozen features", lambda missing: self._compute(missing, places))
        except RunError as error:  # a quota says no more than this
            console.warn(f"frozen features are not kept: {error.message}")
            return False
        self.seconds = time.monotonic() - started
        self._refuse_damage(places)
        who = "training and validation read" if self.trains else "validation reads"
        console.say(f"frozen    nothing changes below {self.cut.name}: {who} features, in {self.rows.folder}")
        return True

    def _shown(self, train: np.ndarray, val: np.ndarray) -> list[tuple[int | None, int]]:
        """Return (version, index) of all that training and validation show."""
        shown = [(None, index) for index in val.tolist()]
        if self.trains and not self.augment.random:
            shown += [(None, index) for index in train.tolist()]
        elif self.trains:
            spec = self.recipe.train
            epochs = spec.epochs if spec.sampling == "balanced" else min(spec.epochs, self.augment.views)
            for epoch in range(epochs):
                order = epoch_order(train, self.manifest.labels, self.recipe.seed, epoch, spec.sampling)
                shown += zip(self.versions(epoch, visits_of([order])[0]), order.tolist(), strict=True)
        return list(dict.fromkeys(shown))

    def versions(self, epoch: int, visits: np.ndarray) -> list[int | None]:
        """Return in which version an epoch shows pictures at a visit; None = without augmentation."""
        if not self.augment.random:
            return [None] * len(visits)
        return [draw_of(epoch, visit, self.augment.views)[0] for visit in visits.tolist()]

    def hidden(self, indices: Sequence[int], versions: Sequence[int | None]) -> Tensor:
        """Return what the lower part makes of pictures, each in its version; float32, on the CPU."""
        keys = [self.key(index, version) for index, version in zip(indices, versions, strict=True)]
        return torch.from_numpy(self.rows.rows(keys))

    def rest(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """Return the logits (B, K) of what `hidden` has given, on the device."""
        return self.cut.rest(model, hidden.to(self.device, self.dtype))

    def logits(self, model: nn.Module, indices: np.ndarray) -> Tensor:
        """Return the logits of pictures without augmentation, float32 (N, K) on the CPU; the model is put into eval mode."""
        model.eval()
        parts = []
        with torch.inference_mode(), autocast(self.device, self.recipe.train.precision):
            for start in range(0, len(indices), self.recipe.evaluate.batch_size):
                leave_if_asked()
                some = indices[start : start + self.recipe.evaluate.batch_size].tolist()
                parts.append(self.rest(model, self.hidden(some, [None] * len(some))).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0)

    def _refuse_damage(self, places: dict[str, tuple[int | None, int]]) -> None:
        """Raise RunError if some rows, drawn from those that are needed, are not what the network computes, up to rounding."""
        keys = list(places)
        drawn = [keys[place] for place in np.random.default_rng(self.recipe.seed).permutation(len(keys))[:LOOKED_AT]]
        tolerance = TOLERANCES[self.recipe.train.precision]
        for some, computed in self._compute(drawn, places, at_least=1):
            difference = np.abs(self.rows.rows(some) - computed).max()
            if not difference <= tolerance * max(1.0, np.abs(computed).max()):
                raise RunError(
                    f"{self.rows.folder}: holds other features than the network computes: they differ by {difference:.3g}",
                    "delete this folder, and start again",
                )

    def key(self, index: int, version: int | None) -> str:
        """Return the key of a picture in a version."""
        pixels = self.manifest.pixels[index]
        if version is None:
            return pixels
        drawn = [pixels, index, version, self.recipe.seed, self.augment.model_dump(mode="json", exclude={"views"})]
        return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:KEY]

    def _compute(
        self, keys: list[str], places: dict[str, tuple[int | None, int]], at_least: int = AT_ONCE
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield keys and their rows; so many are computed at once at least."""
        for version in dict.fromkeys(places[key][0] for key in keys):
            alike = [key for key in keys if places[key][0] == version]
            groups = [alike[start : start + AT_ONCE] for start in range(0, len(alike), AT_ONCE)]
            batches = Batches(
                ImageStore(self.manifest), self.manifest.labels, self.spec, None if version is None else self.augment,
                [np.array([places[key][1] for key in group]) for group in groups], self.recipe.seed, version or 0, self.workers,
            )  # fmt: skip
            for group, (images, _) in zip(groups, on_device(batches, self.device), strict=True):
                whole = images[torch.arange(max(at_least, len(images)), device=self.device) % len(images)]
                hidden = self._below(normalise(whole, self.spec))
                yield group, hidden[: len(group)].float().cpu().numpy()

    def _below(self, images: Tensor) -> Tensor:
        self.model.eval()
        with torch.inference_mode(), autocast(self.device, self.recipe.train.precision):
            return self.cut.below(self.model, images)

    def _name(self) -> str:
        state = self.model.state_dict()
        facts = {
            "tensors": tensors_sha256({name: tensor for name, tensor in state.items() if self.cut.is_below(name)}),
            "cut": self.cut.name,
            "backbone": [self.recipe.backbone.name, self.recipe.backbone.options],
            "input": vars(self.spec),
            "arithmetic": [self.recipe.train.precision, self.device.type, *versions(LIBRARIES).values()],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def frozen_part(assembly: Assembly, train: np.ndarray, val: np.ndarray, table: type[Frozen] = Frozen) -> Frozen | None:
    """Return the table of the frozen lower part of a model, complete; None where nothing of the kind pays.

    Args:
        assembly: data and adapted model.
        train: indices of the training pictures.
        val: indices of the validation pictures.
        table: its class.
    """
    cut = find_cut(assembly.adapted, assembly.input.size)
    # timm recomputes activations in whole networks only
    if cut is None or (cut.above and assembly.recipe.train.gradient_checkpointing):
        return None
    frozen = table(assembly, cut)
    return frozen if all(shared(frozen.fill(train, val))) else None
