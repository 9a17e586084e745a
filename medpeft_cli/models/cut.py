"""Where an adapted network can be cut in two: what no training changes, and the rest from its lowest trained tensor on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import torch
from torch import Tensor, nn

from medpeft_cli.methods.adapt import Adapted, hold_norms
from medpeft_cli.models import sites

LEAST_SHARE = 0.1  # of a network's parameters below a cut: less is sooner computed anew than read
HEAD_PARTS = frozenset(  # timm's names of what `forward_head` runs
    ("global_pool", "attn_pool", "fc_norm", "head_drop", "head_dist", "head", "fc", "classifier", "flatten")
)


class _ReachedError(Exception):
    """The forward pass has come to the cut."""

    def __init__(self, hidden: Tensor):
        self.hidden = hidden


@dataclass(frozen=True)
class Cut:
    """A place between two modules of a network that run one after the other.

    Attributes:
        name: the first module above.
        above: the modules above, in order, before the network's `forward_head`; none = `name` is the classifier.
    """

    name: str
    above: tuple[str, ...]

    def below(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return what the first module above reads; nothing above is computed.

        Shape:
            images: float (B, 3, S, S) → (B, …): tokens, maps or pooled features.
        """

        def stop(module: nn.Module, arguments: tuple, keywords: dict) -> NoReturn:
            if len(arguments) != 1 or keywords:
                raise TypeError(f"{self.name} reads more than one tensor")
            raise _ReachedError(arguments[0])

        handle = model.get_submodule(self.name).register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        try:
            model(images)
        except _ReachedError as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise TypeError(f"{self.name} is not a part of the forward pass")

    def rest(self, model: nn.Module, hidden: Tensor) -> Tensor:
        """Return the logits (B, K) of what `below` has given."""
        if not self.above:
            return model.get_submodule(self.name)(hidden).flatten(1)  # a 1 × 1 convolution keeps its axes
        for name in self.above:
            hidden = model.get_submodule(name)(hidden)
        return model.forward_head(hidden)

    def is_below(self, name: str) -> bool:
        """Tell whether a tensor of the state dict belongs to what is computed below."""
        return not sites.in_modules(name, [*self.above, *HEAD_PARTS] if self.above else [self.name])


def find_cut(adapted: Adapted, size: int) -> Cut | None:
    """Return the highest place below which nothing is trained, moves or is drawn at random, if it is worth a cut.

    It is tried on noise: both parts, one after the other, must give what the whole network gives, and the lower one in training what
    it gives in evaluation.

    Args:
        adapted: on any device but meta; its mode stays as it is.
        size: side of the square image, pixels.
    """
    model = adapted.model
    cut = _lowest(adapted)
    if cut is None or _random_below(adapted, cut):
        return None
    state = dict(model.named_parameters())
    below = sum(parameter.numel() for name, parameter in state.items() if cut.is_below(name))
    if below < LEAST_SHARE * sum(parameter.numel() for parameter in state.values()):
        return None
    (images,), _ = sites.example_inputs(model, adapted.family, size, 2)
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.inference_mode():
            model.eval()
            hidden = cut.below(model, images)
            whole, parts = model(images), cut.rest(model, hidden)
            model.train()
            hold_norms(adapted)
            trained = cut.below(model, images)
        return cut if _alike(whole, parts) and _alike(hidden, trained) else None
    except (TypeError, AttributeError, RuntimeError):  # what runs above is not what this order says
        return None
    finally:
        for module, training in modes.items():
            module.training = training
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-4, atol=1e-5)


def _lowest(adapted: Adapted) -> Cut | None:
    """Return the place right below the lowest module with a tensor that training changes."""
    changing = [*(name for name, _ in adapted.trainable()), *adapted.moving_names]
    heads = sites.head_names(adapted.model)
    if len(heads) == 1 and all(sites.in_modules(name, heads) for name in changing):
        return Cut(heads[0], ())
    beside = {name.partition(".")[0] for name in adapted.method_names}
    if len(beside) == 1 and not any(sites.in_modules(key, list(beside)) for key in adapted.plain_keys):
        return Cut(name := beside.pop(), (name,))  # a network of its own reads the backbone, wherever it is registered
    children = list(_children(adapted.model))
    places = [
        next((place for place, child in enumerate(children) if sites.in_modules(name, [child])), 0) for name in changing
    ]
    lowest = min(places, default=0)
    above = tuple(child for child in children[lowest:] if child not in HEAD_PARTS)
    return Cut(children[lowest], above) if lowest and above and children[lowest] not in HEAD_PARTS else None


def _children(model: nn.Module) -> Iterator[str]:
    """Yield the names of a network's modules in the order timm runs them; of a sequence, those of its members."""
    for name, child in model.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)) and name not in HEAD_PARTS:
            yield from (f"{name}.{member}" for member, _ in child.named_children())
        else:
            yield name


def _random_below(adapted: Adapted, cut: Cut) -> bool:
    """Tell whether training drops something of the lower part, however seldom; linear probing and LST never do."""
    if adapted.method.still_backbone:
        return False
    return any(
        getattr(module, "p" if isinstance(module, nn.modules.dropout._DropoutNd) else "drop_prob", 0) > 0
        for name, module in adapted.model.named_modules()
        if name and cut.is_below(name)
    )
