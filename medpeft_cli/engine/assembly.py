"""The data and the adapted model of one recipe, and what is said of them before training."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medpeft_cli.console import console
from medpeft_cli.data.card import Card, load_card
from medpeft_cli.data.images import InputSpec
from medpeft_cli.data.manifest import Manifest, read_manifest
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.malloc import keep_freed_memory
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt
from medpeft_cli.methods.method import Family
from medpeft_cli.models.backbones import build_backbone
from medpeft_cli.recipe.schema import ClassifyRecipe, Recipe
from medpeft_cli.runs import ranks
from medpeft_cli.runs.environment import cores, describe_device, describe_environment
from medpeft_cli.runs.skip import file_facts

CARD_TASKS = {  # task of a recipe → task of its card, in words, what to do
    "classify": ("classify", "one class an image", "give a card whose label column names one class"),
    "generate": ("text", "a text an image", "give a card of task text, such as mimic_cxr"),
}
MOST_PATTERNS = 12  # kinds of modules that are told by their whole name


@dataclass(frozen=True)
class Assembly:
    """Data and adapted model of one recipe.

    Attributes:
        recipe: of any task.
        card: of the dataset.
        manifest: the prepared dataset.
        pretrained: what the model was before: a backbone, or a pipeline's U-Net and what belongs to it.
        input: how pictures are read.
        adapted: the model with the method in it, on the device.
        device: where it is trained.
        workers: threads that prepare pictures.
    """

    recipe: Recipe
    card: Card
    manifest: Manifest
    pretrained: Any
    input: InputSpec
    adapted: Adapted
    device: torch.device
    workers: int


def assemble(recipe: ClassifyRecipe) -> Assembly:
    """Read the prepared dataset, build the backbone and put the method in, on the recipe's device."""
    device = pick_device(recipe.device)
    card, manifest = open_dataset(recipe)
    built = build_backbone(recipe.backbone, len(manifest.classes), recipe.seed)
    refuse_small_store(manifest, built.input)
    adapted = adapt_model(built.model, built.family, recipe, device)
    return Assembly(recipe, card, manifest, built, built.input, adapted, device, loader_threads(recipe))


def adapt_model(model: nn.Module, family: Family, recipe: Recipe, device: torch.device) -> Adapted:
    """Put the recipe's method into a model, on a device; the seed decides the adapter's initial values."""
    if device.type == "cpu":
        keep_freed_memory()
    method = METHODS[recipe.method.name]
    torch.manual_seed(seed_of(recipe.seed, "adapter"))
    adapted = adapt(model, family, method, method.config(**recipe.method.parameters))
    adapted.model.to(device)
    return adapted


def open_dataset(recipe: Recipe) -> tuple[Card, Manifest]:
    """Read the card and the prepared dataset of a recipe; a demo's twin is made where it is missing."""
    card = load_card(recipe.data.card)
    wanted, what, hint = CARD_TASKS[recipe.task]
    if card.task != wanted:
        raise RecipeError(f"data.card: {card.name!r} is for task {card.task}, wanted {wanted}: {what}", hint)
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


def loader_threads(recipe: Recipe) -> int:
    """Return how many threads prepare images; auto takes every core this process may use."""
    return cores() if recipe.workers == "auto" else recipe.workers


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
    if ranks.here.size > 1 and device.type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())  # by number: other threads have another default
    return device


def describe(assembly: Assembly) -> None:
    """Say what was decided: data, family, matched modules, counts, device."""
    recipe, adapted, manifest, pretrained = assembly.recipe, assembly.adapted, assembly.manifest, assembly.pretrained
    counts = adapted.counts()
    images = len(manifest.training_subset(recipe.data.fraction, recipe.data.k_shot))
    console.say(
        f"data      {'demo twin of ' if recipe.demo else ''}{assembly.card.name}: train {images:,} "
        f"({recipe.data.k_shot or f'{100 * recipe.data.fraction:.4g} %'}{' per class' if recipe.data.k_shot else ''}), "
        f"val {len(manifest.indices('val')):,}, test {len(manifest.indices('test')):,} · "
        + ("texts" if manifest.texts else f"{len(manifest.classes)} classes")
    )
    console.say(
        f"backbone  {pretrained.title} ({adapted.family}), weights {pretrained.weights_source}, input {assembly.input.size} px"
    )
    head = f" + head {counts['head']:,}" if adapted.head_names else ""
    console.say(
        f"method    {adapted.method.titles[adapted.family]}: trains {counts['method']:,}{head} of {counts['total']:,}"
        f" · {counts['moving_buffers']:,} moving buffer values · {len(adapted.matched)} modules matched"
    )
    console.say(f"modules   {_patterns(adapted.matched)}")
    if adapted.unmatched:
        console.warn("targets that match nothing: " + ", ".join(adapted.unmatched))
    if adjusted := Counter(adapted.injected.adjusted.values()):
        sizes = ", ".join(f"{size} in {count} layers" for size, count in sorted(adjusted.items()))
        console.warn(
            f"method.block_size: HF peft takes other block sizes where it does not divide a layer's inputs: {sizes}"
        )
    console.say(
        f"device    {assembly.device} · {recipe.train.precision} · {assembly.workers} loader threads"
        + (f" · {ranks.here.size} processes" if ranks.here.size > 1 else "")
    )


def _patterns(names: list[str]) -> str:
    """Return module names with their block numbers folded: `blocks.*.attn.qkv ×12`; all of them with --verbose."""
    if console.verbose or not names:
        return ", ".join(names) or "none beside the head"
    counts = Counter(re.sub(r"\b\d+\b", "*", name) for name in names)
    if len(counts) > MOST_PATTERNS:  # a U-Net: by the last word alone
        counts = Counter(re.sub(r"\.\d+$", "", name).rpartition(".")[2] for name in names)
    return ", ".join(f"{pattern} ×{count}" if count > 1 else pattern for pattern, count in counts.items())


def facts(assembly: Assembly) -> dict[str, Any]:
    """Return what the record says of data, model and machine before training."""
    recipe, adapted, manifest, pretrained = assembly.recipe, assembly.adapted, assembly.manifest, assembly.pretrained
    used = manifest.training_subset(recipe.data.fraction, recipe.data.k_shot)
    return {
        "family": adapted.family,
        "backbone_title": pretrained.title,
        "method_title": adapted.method.titles[adapted.family],
        "card": {"name": assembly.card.name, "title": assembly.card.title, "sha256": manifest.info["card_sha256"]},
        "data": {
            "manifest_sha256": manifest.sha256,
            "classes": list(manifest.classes),
            "counts": {split: manifest.counts(split) for split in ("train", "val", "test")},
            "train_images": len(used),
            "store_size": manifest.info["size"],
        },
        "weights": {
            "source": pretrained.weights_source,
            "sha256": pretrained.weights_sha256,
            **file_facts(recipe.weights_file),
        },
        "input": vars(assembly.input) | {"mean": list(assembly.input.mean), "std": list(assembly.input.std)},
        "parameters": adapted.counts(),
        "modules": {"matched": adapted.matched, "unmatched": adapted.unmatched, "adjusted": adapted.injected.adjusted},
        "environment": describe_environment() | describe_device(str(assembly.device)),
    }


def refuse_small_store(manifest: Manifest, spec: InputSpec) -> None:
    """Raise DataError if pictures were packed smaller than the model reads them."""
    if manifest.info["size"] < spec.size:
        raise DataError(
            f"{manifest.root}: images were packed at {manifest.info['size']} px, the backbone reads {spec.size} px",
            f"run `medpeft prepare` again with --size {math.ceil(spec.size / spec.crop_pct)}",
        )
