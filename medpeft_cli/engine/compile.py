"""Training with compiled blocks (torch.compile by region), and without them where the compiler fails."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from medpeft_cli.console import console
from medpeft_cli.files import user_cache
from medpeft_cli.models import sites

MOST_VARIANTS = 64  # of a block's code: shapes, batch sizes, adapters; those beyond stay uncompiled


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Compile the repeated blocks of a model while the block lasts, for forward passes that record gradients alone.

    So the model is the same in memory, state dict and validation, which sees the plain blocks. Equal blocks share one
    compilation, and processes share them on disk (TORCHINDUCTOR_CACHE_DIR, or medpeft/inductor in the user's cache). Dropout
    draws what it draws uncompiled. Where the compiler fails, a warning says why, and the plain blocks go on.

    Args:
        model: with adapters in it.
        wanted: false = nothing is done.
    """
    if not wanted:
        yield
        return
    from torch import _dynamo, _functorch

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache("inductor")))
    blocks = sites.repeated_blocks(model)
    if not blocks:
        console.warn(f"train.compile: no blocks are known of {sites.backbone_name(model)!r}; it stays uncompiled")
    failures: list[str] = []
    for block in blocks:
        block.forward = _with_fallback(block.forward, failures)  # found before the class's
    try:
        with (
            _dynamo.config.patch(recompile_limit=MOST_VARIANTS),
            _functorch.config.patch(force_non_lazy_backward_lowering=True),  # so that it fails in the forward pass
        ):
            yield
    finally:
        for block in blocks:
            del block.forward


def _with_fallback(plain: Callable[..., Any], failures: list[str]) -> Callable[..., Any]:
    """Return a forward pass that is compiled where gradients are recorded, until any block's compilation fails."""
    from torch._dynamo.exc import TorchDynamoException

    fast = torch.compile(plain, options={"fallback_random": True})

    def forward(*args: Any, **options: Any) -> Any:
        if failures or not torch.is_grad_enabled():
            return plain(*args, **options)
        try:
            return fast(*args, **options)
        except TorchDynamoException as error:
            failures.append(str(error))
            why = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
            console.warn(f"train.compile: {why}; training goes on uncompiled")
            return plain(*args, **options)

    return forward
