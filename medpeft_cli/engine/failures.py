"""What torch says when a run is too large or too small, as errors with a next step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medpeft_cli.errors import RunError
from medpeft_cli.recipe.schema import Recipe


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Translate torch's errors for too little memory and for a BatchNorm that sees one value per channel.

    Raises:
        RunError: in their place; everything else passes.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in first:
            part = "sample" if recipe.task == "generate" else "evaluate"
            raise RunError(
                f"out of memory with train.micro_batch_size {recipe.train.micro_batch_size}, "
                f"{part}.batch_size {getattr(recipe, part).batch_size}: {first}",
                f"halve train.micro_batch_size (the batch size stays the same) or {part}.batch_size, "
                "or set train.gradient_checkpointing=true",
            ) from error
        if "more than 1 value per channel" in first:
            raise RunError(
                f"train.micro_batch_size {recipe.train.micro_batch_size}: BatchNorm cannot adapt to a single value: {first}",
                "raise train.micro_batch_size or backbone.input.size, or hold the statistics (method.statistics=hold)",
            ) from error
        raise
