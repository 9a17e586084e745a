"""Fold a method into the backbone's own weights: a state dict that plain timm loads, at no cost in inference."""

from copy import deepcopy
from importlib import import_module

from torch import Tensor

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.adapt import Adapted


def merged_state_dict(adapted: Adapted) -> dict[str, Tensor]:
    """Return the weights of a plain timm model that computes what the adapted model computes in eval mode.

    Computed in float32 on a copy; the adapted model stays as it is.

    Args:
        adapted: the trained model.

    Returns:
        state-dict name of the unadapted model → tensor on the CPU, floating-point ones as float32.

    Raises:
        RecipeError: if the method cannot be written as a change of the weights, on this backbone or at all.
    """
    if not adapted.method.mergeable:
        raise RecipeError(
            f"method {adapted.method.name!r} cannot be merged: it is not a change of the backbone's weights",
            "keep the adapter, or choose a method that `medpeft list methods` shows as mergeable",
        )
    code = import_module(adapted.method.code)
    if adapted.injected.peft is not None:
        model = deepcopy(adapted.injected.peft).cpu().float()
        model = code.merge(model, adapted.method.name)
    else:
        model = deepcopy(adapted.model).cpu().float()
        if hasattr(code, "merge"):  # selective methods have nothing to fold
            code.merge(model)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if sorted(tensors) != sorted(adapted.plain_keys):
        strange = sorted(set(tensors) ^ set(adapted.plain_keys))
        raise RecipeError(
            f"method {adapted.method.name!r} cannot be merged here: {strange[0]} is not in the plain model"
        )
    return tensors
