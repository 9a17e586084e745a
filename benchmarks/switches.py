"""What single switches are worth on this machine; docs/log.md says which of them are kept. Run by hand.

    python -m benchmarks.switches compile|fused|channels|batch|folded|checkpoint [--repeats 5]

Every row is with the switch over without it, in seconds, so that less than 1 is a gain. Random weights; nothing is read or fetched.
"""
# ruff: noqa: B023  (every work is done before the names in it change)

import argparse
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from medpeft_cli import compat  # noqa: F401  (before timm)

# isort: split
import timm
import torch
from torch import nn
from torch.nn import functional

from benchmarks.measure import Row, compare, seconds, take_turns
from medpeft_cli.engine.checkpoint import Checkpoint, State
from medpeft_cli.engine.compile import compiled
from medpeft_cli.engine.optim import build_optimiser
from medpeft_cli.malloc import keep_freed_memory
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt, hold_norms
from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.methods.state import get_delta
from medpeft_cli.models import sites
from medpeft_cli.recipe.schema import Train

CLASSES = 7


def adapted(backbone: str, method: str) -> Adapted:
    """Return a backbone of random weights with a method in it, as training has it."""
    torch.manual_seed(0)
    options = {"img_size": 96} if backbone.startswith("vit") else {}
    model = timm.create_model(backbone, num_classes=CLASSES, **options)
    found = adapt(model, sites.family_of(model), METHODS[method], METHODS[method].config())
    model.train()
    hold_norms(found)
    return found


def batch(images: int) -> torch.Tensor:
    """Return pictures as the engine hands them over, float32 (B, 3, 96, 96)."""
    return torch.randn(images, 3, 96, 96).contiguous(memory_format=torch.channels_last)


def step(found: Adapted, images: torch.Tensor, optimiser: torch.optim.Optimizer | None = None) -> None:
    """Do a forward and a backward pass, and the optimiser's step if there is one."""
    labels = torch.arange(len(images)) % CLASSES
    functional.cross_entropy(found.model(images), labels).backward()
    if optimiser is not None:
        optimiser.step()
    found.model.zero_grad(set_to_none=True)


def by_turns(part: str, what: str, repeats: int, with_it: Callable[[], object], without: Callable[[], object]) -> Row:
    """Return with it over without it."""
    times = take_turns(repeats, with_it=with_it, without=without)
    return compare(part, what, "s", times["with_it"], times["without"])


def compile_rows(repeats: int) -> list[Row]:
    """Compiled blocks; the compilation is in the turn that is not counted."""
    rows = []
    for backbone, method in (("vit_tiny_patch16_224", "lora"), ("resnet18", "norm")):
        plain, fast, images = adapted(backbone, method), adapted(backbone, method), batch(16)
        with compiled(fast.model, True):
            print(f"{backbone} {method}: compiled in {seconds(lambda: step(fast, images)):.1f} s", flush=True)
            what = f"step of 16, {backbone} {method}"
            rows.append(by_turns("compile", what, repeats, lambda: step(fast, images), lambda: step(plain, images)))
    return rows


def fused_rows(repeats: int) -> list[Row]:
    """Fused AdamW on the CPU: its step alone, and a whole step of 16 images."""
    rows = []
    for backbone, method in (("vit_small_patch16_224", "full"), ("vit_tiny_patch16_224", "ssf"), ("resnet18", "norm")):
        found, images = adapted(backbone, method), batch(16)
        parameters = [parameter for _, parameter in found.trainable()]
        fused, plain = (torch.optim.AdamW(parameters, lr=1e-6, fused=fused) for fused in (True, False))
        works = (lambda: step(found, images, fused)), (lambda: step(found, images, plain))
        rows.append(by_turns("fused", f"step of 16, {backbone} {method}", repeats, *works))
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        rows.append(by_turns("fused", f"AdamW alone, {backbone} {method}", repeats, fused.step, plain.step))
    return rows


def channels_rows(repeats: int) -> list[Row]:
    """Weights of convolutions with channels last; the input has them last in either case."""
    rows = []
    for backbone, method, count in (("resnet18", "full", 16), ("resnet18", "full", 64), ("resnet50", "norm", 64)):
        plain, last, images = adapted(backbone, method), adapted(backbone, method), batch(count)
        last.model.to(memory_format=torch.channels_last)
        what = f"step of {count}, {backbone} {method}"
        rows.append(by_turns("channels", what, repeats, lambda: step(last, images), lambda: step(plain, images)))
    return rows


def forward(model: nn.Module, images: torch.Tensor, size: int) -> None:
    """Do forward passes of so many pictures each, as evaluation does."""
    with torch.inference_mode():
        for part in images.split(size):
            model(part)


def batch_rows(repeats: int) -> list[Row]:
    """Images per forward pass at evaluation, beside 128."""
    rows = []
    for backbone in ("vit_tiny_patch16_224", "resnet18"):
        model, images = adapted(backbone, "linear").model.eval(), batch(256)
        for size in (32, 256):
            works = (lambda: forward(model, images, size)), (lambda: forward(model, images, 128))
            rows.append(by_turns("batch", f"256 images by {size}, {backbone}", repeats, *works))
    return rows


def folded_rows(repeats: int) -> list[Row]:
    """Evaluation with the adapter folded into the weights."""
    rows = []
    for backbone, method in (("vit_small_patch16_224", "lora"), ("vit_small_patch16_224", "ssf"), ("resnet18", "ssf")):
        found, images = adapted(backbone, method), batch(64)
        for name, parameter in found.trainable():
            nn.init.normal_(parameter, 1.0 if "scale" in name else 0.0, 0.02)
        folded = timm.create_model(
            backbone, num_classes=CLASSES, **({"img_size": 96} if backbone.startswith("vit") else {})
        )
        folded.load_state_dict(merged_state_dict(found))
        models = [model.eval() for model in (folded, found.model)]
        with torch.inference_mode():
            first, second = (model(images) for model in models)
        print(f"{backbone} {method}: outputs differ by {float((first - second).abs().max()):.3g}", flush=True)
        works = (lambda model=model: forward(model, images, 64) for model in models)
        rows.append(by_turns("folded", f"64 images, {backbone} {method}", repeats, *works))
    return rows


def checkpoint_rows(repeats: int) -> list[Row]:
    """What a checkpoint of a full fine-tuning takes, over the 120 s that lie between two."""
    found = adapted("vit_small_patch16_224", "full")
    optimiser = build_optimiser(found.trainable(), Train())
    step(found, batch(2), optimiser)
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            content = {"tensors": get_delta(found), "optimiser": deepcopy(optimiser.state_dict())}
            spent.append(seconds(lambda content=content: Checkpoint(Path(folder)).save(State(), **content)))
    return [compare("checkpoint", "vit_small full, over checkpoint_seconds", "s", spent, [120.0] * repeats)]


PARTS = {
    "compile": compile_rows,
    "fused": fused_rows,
    "channels": channels_rows,
    "batch": batch_rows,
    "folded": folded_rows,
    "checkpoint": checkpoint_rows,
}


def main() -> None:
    """Measure the parts that are asked for and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    keep_freed_memory()
    for part in asked.parts:
        for row in PARTS[part](asked.repeats):
            print(row, flush=True)


if __name__ == "__main__":
    main()
