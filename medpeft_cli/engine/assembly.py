"""The data and the adapted model of one recipe, and what is said of them before training."""

import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medpeft_cli.console import console
from medpeft_cli.data.card import Card, load_card
from medpeft_cli.data.images import InputSpec
from medpeft_cli.data.manifest import Manifest, read_manifest
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.files import sha256_file
from medpeft_cli.malloc import keep_freed_memory
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt, probe
from medpeft_cli.models.backbones import Built, build_backbone
from medpeft_cli.recipe.schema import ClassifyRecipe
from medpeft_cli.runs.environment import describe_device, describe_environment


@dataclass(frozen=True)
class Assembly:
    """Data and adapted model of one recipe."""

    recipe: ClassifyRecipe
    card: Card
    manifest: Manifest
    built: Built
    adapted: Adapted
    device: torch.device
    workers: int


def assemble(recipe: ClassifyRecipe) -> Assembly:
    """Read the prepared dataset, build the backbone and put the method in, on the recipe's device."""
    device = pick_device(recipe.device)
    if device.type == "cpu":
        keep_freed_memory()
    card, manifest = open_dataset(recipe)
    built = build_backbone(recipe.backbone, len(manifest.classes), recipe.seed)
    _refuse_small_store(manifest, built.input)
    method = METHODS[recipe.method.name]
    torch.manual_seed(seed_of(recipe.seed, "adapter"))
    adapted = adapt(built.model, built.family, method, method.config(**recipe.method.parameters))
    adapted.model.to(device)
    return Assembly(recipe, card, manifest, built, adapted, device, loader_threads(recipe))


def open_dataset(recipe: ClassifyRecipe) -> tuple[Card, Manifest]:
    """Read the card and the prepared dataset of a recipe; a demo's twin is made where it is missing."""
    card = load_card(recipe.data.card)
    if card.task != "classify":
        raise RecipeError(
            f"data.card: {card.name!r} is for task {card.task}, wanted classify: one class an image",
            "give a card whose label column names one class",
        )
    root = recipe.data.folder
    if recipe.demo:
        from medpeft_cli.demo.twins import ensure_twin

        ensure_twin(recipe.data.card, root)
    manifest = read_manifest(root, card)
    if "twin" in manifest.info and not recipe.demo:
        raise DataError(
            f"{root}: holds a synthetic twin, and this run is no demo",
            "add --demo, or point data.root at the real dataset",
        )
    return card, manifest


def loader_threads(recipe: ClassifyRecipe) -> int:
    """Return how many threads prepare images; auto takes every core this process may use."""
    if recipe.workers != "auto":
        return recipe.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(name: str) -> torch.device:
    """Return the named device; auto takes CUDA, then MPS, then the CPU.

    Raises:
        RunError: if the machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RunError(
            f"device: {name!r} is not here: {str(error).splitlines()[0]}", "device: auto, cpu, cuda, cuda:1 or mps"
        ) from error
    return device


def describe(assembly: Assembly) -> None:
    """Say what was decided: data, family, matched modules, counts, device."""
    recipe, adapted, manifest = assembly.recipe, assembly.adapted, assembly.manifest
    counts = adapted.counts()
    images = len(manifest.training_subset(recipe.data.fraction, recipe.data.k_shot))
    console.say(
        f"data      {'demo twin of ' if recipe.demo else ''}{assembly.card.name}: train {images:,} "
        f"({recipe.data.k_shot or f'{100 * recipe.data.fraction:.4g} %'}{' per class' if recipe.data.k_shot else ''}), "
        f"val {len(manifest.indices('val')):,}, test {len(manifest.indices('test')):,} · {len(manifest.classes)} classes"
    )
    console.say(
        f"backbone  {assembly.built.title} ({assembly.built.family}), weights {assembly.built.weights_source}, input {assembly.built.input.size} px"
    )
    console.say(
        f"method    {adapted.method.titles[assembly.built.family]}: trains {counts['method']:,} + head {counts['head']:,} of {counts['total']:,}"
        f" · {counts['moving_buffers']:,} moving buffer values · {len(adapted.matched)} modules matched"
    )
    console.say(f"modules   {_patterns(adapted.matched)}")
    if adapted.unmatched:
        console.warn("targets that match nothing: " + ", ".join(adapted.unmatched))
    console.say(f"device    {assembly.device} · {recipe.train.precision} · {assembly.workers} loader threads")


def _patterns(names: list[str]) -> str:
    """Return module names with their block numbers folded: `blocks.*.attn.qkv ×12`; all of them with --verbose."""
    if console.verbose or not names:
        return ", ".join(names) or "none beside the head"
    counts = Counter(re.sub(r"\b\d+\b", "*", name) for name in names)
    return ", ".join(f"{pattern} ×{count}" if count > 1 else pattern for pattern, count in counts.items())


def facts(assembly: Assembly) -> dict[str, Any]:
    """Return what the record says of data, model and machine before training."""
    recipe, adapted, manifest, built = assembly.recipe, assembly.adapted, assembly.manifest, assembly.built
    used = manifest.training_subset(recipe.data.fraction, recipe.data.k_shot)
    return {
        "family": built.family,
        "backbone_title": built.title,
        "method_title": adapted.method.titles[built.family],
        "card": {"name": assembly.card.name, "title": assembly.card.title, "sha256": manifest.info["card_sha256"]},
        "data": {
            "manifest_sha256": manifest.sha256,
            "classes": list(manifest.classes),
            "counts": {split: manifest.counts(split) for split in ("train", "val", "test")},
            "train_images": len(used),
            "store_size": manifest.info["size"],
        },
        "weights": {
            "source": built.weights_source,
            "sha256": built.weights_sha256,
            "file_sha256": _file_sha256(recipe),
        },
        "input": vars(built.input) | {"mean": list(built.input.mean), "std": list(built.input.std)},
        "parameters": adapted.counts(),
        "modules": {"matched": adapted.matched, "unmatched": adapted.unmatched},
        "environment": describe_environment() | describe_device(str(assembly.device)),
    }


def _file_sha256(recipe: ClassifyRecipe) -> str | None:
    path = Path(recipe.backbone.weights)
    return sha256_file(path) if path.is_file() else None


def dry_run(recipe: ClassifyRecipe) -> dict[str, Any]:
    """Build everything, check with one image that every trained tensor is reached, train nothing; return the facts."""
    assembly = assemble(recipe)
    describe(assembly)
    probe(assembly.adapted, assembly.built.input.size)
    return facts(assembly)


def _refuse_small_store(manifest: Manifest, spec: InputSpec) -> None:
    if manifest.info["size"] < spec.size:
        raise DataError(
            f"{manifest.root}: images were packed at {manifest.info['size']} px, the backbone reads {spec.size} px",
            f"run `medpeft prepare` again with --size {math.ceil(spec.size / spec.crop_pct)}",
        )
