"""What torch says when a run is too large or too small, as errors with a next step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medpeft_cli.errors import RunError
from medpeft_cli.recipe.schema import Recipe


@contextmanager
def enough_memory(what: str, hint: str) -> Iterator[None]:
    """Translate torch's error for too little memory.

    Args:
        what: takes the memory.
        hint: how to take less.

    Raises:
        RunError: in its place; everything else passes.
    """
    try:
        yield
    except RuntimeError as error:
        first = (str(error).splitlines() or [""])[0]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in first:
            raise RunError(f"out of memory with {what}: {first}", hint) from error
        raise


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Translate torch's errors for too little memory and for a BatchNorm that sees one value per channel.

    Raises:
        RunError: in their place; everything else passes.
    """
    part = "sample" if recipe.task == "generate" else "evaluate"
    sizes = (
        f"train.micro_batch_size {recipe.train.micro_batch_size}, {part}.batch_size {getattr(recipe, part).batch_size}"
    )
    less = (
        f"halve train.micro_batch_size (the batch size stays the same) or {part}.batch_size, "
        "or set train.gradient_checkpointing=true"
    )
    try:
        with enough_memory(sizes, less):
            yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        holds = ", or hold the statistics (method.statistics=hold)" if "statistics" in recipe.method.parameters else ""
        raise RunError(
            f"train.micro_batch_size {recipe.train.micro_batch_size}: BatchNorm cannot adapt to a single value: {error}",
            "raise train.micro_batch_size or backbone.input.size" + holds,
        ) from error
