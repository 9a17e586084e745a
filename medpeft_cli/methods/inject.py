"""The ways into a model: unfreeze what is there, add after a module, add beside a module, compute its weight anew.

An adapter becomes a child of its host and acts through one forward hook, so every state-dict key of the backbone
stays what it was, and the adapter's key is `<host>.<method>.<parameter>`. Hooks are partials of module-level
functions: an adapted model can be copied and pickled.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.schedule import Schedule


@dataclass
class Injected:
    """What a method's `inject` has done.

    Attributes:
        names: state-dict names of the parameters the method trains; the classifier is not among them.
        matched: names of the modules it adapts.
        unmatched: targets of the recipe that name no module.
        adjusted: module → the value that took the place of the recipe's (OFT's block size), for modules where one did.
        moving: state-dict names of the buffers that change in training and belong to the delta.
        peft: HF peft's wrapper around the model, for methods that come from there.
        schedule: what must happen at each step of training.
    """

    names: list[str]
    matched: list[str]
    unmatched: list[str] = field(default_factory=list)
    adjusted: dict[str, int] = field(default_factory=dict)
    moving: list[str] = field(default_factory=list)
    peft: Any = None
    schedule: Schedule = field(default_factory=Schedule)


def freeze(model: nn.Module) -> None:
    """Stop the training of every parameter."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def unfreeze(model: nn.Module, rule: Callable[[str, nn.Module], bool]) -> list[str]:
    """Train every parameter for which `rule(name, owner)` holds; owner is the module that has it. Returns the names."""
    names = []
    for name, parameter in model.named_parameters():
        if rule(name, model.get_submodule(name.rpartition(".")[0])):
            parameter.requires_grad_(True)
            names.append(name)
    return names


def after(host: nn.Module, name: str, adapter: nn.Module) -> None:
    """Make the host's output y ← adapter(y)."""
    _attach(host, name, adapter, _after)


def beside(host: nn.Module, name: str, adapter: nn.Module, reads: nn.Module | None = None) -> None:
    """Make the host's output y ← y + adapter(x).

    Args:
        host: module whose output is changed.
        name: the adapter's name as a child of the host.
        adapter: the branch.
        reads: module inside the host whose input is x; None = the host's own input.
    """
    _attach(host, name, adapter, _beside if reads is None else _beside_inner)
    if reads is not None:
        adapter.reads = []
        reads.register_forward_pre_hook(partial(_remember, adapter))


def reparametrise(host: nn.Module, name: str, adapter: nn.Module) -> None:
    """Make the host compute with W ← adapter(W) in place of its weight W, which stays the parameter it was."""
    _refuse_second(host, name)
    host.add_module(name, adapter)
    host.register_forward_pre_hook(partial(_put_weight, name))
    host.register_forward_hook(partial(_take_weight, name), always_call=True)


def detach(host: nn.Module, name: str) -> nn.Module:
    """Take an adapter out of its host again, with its hooks, and return it."""
    adapter = getattr(host, name)
    delattr(host, name)
    for hooks in (host._forward_pre_hooks, host._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, partial) and hook.args == (name,):
                del hooks[key]
                host._forward_hooks_always_called.pop(key, None)
    return adapter


def adapters(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return (host name, host) of every module that has an adapter of this name."""
    return [(path, module) for path, module in model.named_modules() if name in module._modules]


def trained_names(model: nn.Module) -> list[str]:
    """Return the names of all parameters that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _attach(host: nn.Module, name: str, adapter: nn.Module, hook: Callable) -> None:
    _refuse_second(host, name)
    host.add_module(name, adapter)
    host.register_forward_hook(partial(hook, name))


def _refuse_second(host: nn.Module, name: str) -> None:
    if hasattr(host, name):
        raise RecipeError(f"{type(host).__name__} already has a {name!r} adapter, wanted an unadapted backbone")


def _after(name: str, host: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return getattr(host, name)(output)


def _beside(name: str, host: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return output + getattr(host, name)(args[0])


def _beside_inner(name: str, host: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    adapter = getattr(host, name)
    return output + adapter(adapter.reads.pop()).reshape(output.shape)


def _put_weight(name: str, host: nn.Module, args: tuple) -> None:
    # an attribute of the instance is found before the parameter of the same name
    host.__dict__["weight"] = getattr(host, name)(host._parameters["weight"])


def _take_weight(name: str, host: nn.Module, args: tuple, output: torch.Tensor) -> None:
    host.__dict__.pop("weight", None)


def _remember(adapter: nn.Module, module: nn.Module, args: tuple) -> None:
    adapter.reads[:] = [args[0]]
