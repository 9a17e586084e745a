"""Put a PEFT method into a backbone, and account for every tensor: frozen, method, head; static or moving."""

from dataclasses import dataclass
from importlib import import_module

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.inject import Injected, freeze
from medpeft_cli.methods.method import Family, Method
from medpeft_cli.methods.schedule import Schedule
from medpeft_cli.models import sites
from medpeft_cli.recipe.schema import Strict

MARK = "medpeft_method"  # attribute of a model that says which method is in it


@dataclass
class Adapted:
    """A backbone with a method in it, and the names of everything that training changes.

    Attributes:
        model: the adapted model (the object that was given, changed in place).
        family: "cnn", "vit" or "unet".
        method: the method's facts.
        config: its hyper-parameters.
        method_names: parameters that the method trains, as `model.named_parameters()` names them.
        head_names: parameters of the classifier; a U-Net has none.
        moving_names: buffers that change in training and are saved (running statistics of BatchNorm).
        matched: modules that are adapted.
        unmatched: targets of the recipe that name no module.
        plain_keys: state-dict keys of the backbone before it was adapted.
        injected: what else the method keeps (HF peft's wrapper, AdaLoRA's schedule).
    """

    model: nn.Module
    family: Family
    method: Method
    config: Strict
    method_names: list[str]
    head_names: list[str]
    moving_names: list[str]
    matched: list[str]
    unmatched: list[str]
    plain_keys: list[str]
    injected: Injected

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return (name, parameter) of all that is trained, in the model's order."""
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    def counts(self) -> dict[str, int]:
        """Return numbers of elements: total = frozen + method + head parameters, and moving_buffers apart."""
        sizes = {name: parameter.numel() for name, parameter in self.model.named_parameters()}
        buffers = dict(self.model.named_buffers())
        method = sum(sizes[name] for name in self.method_names)
        head = sum(sizes[name] for name in self.head_names)
        total = sum(sizes.values())
        return {
            "total": total,
            "frozen": total - method - head,
            "method": method,
            "head": head,
            "moving_buffers": sum(buffers[name].numel() for name in self.moving_names),
        }

    @property
    def schedule(self) -> Schedule:
        """What the training loop calls at each optimiser step."""
        return self.injected.schedule


def adapt(model: nn.Module, family: Family, method: Method, config: Strict) -> Adapted:
    """Freeze a backbone, put the method in, and train the classifier, if it has one, beside it. Changes the model in place.

    Works on the meta device too, to count parameters without weights. Initial values and frozen random parts are drawn
    from torch's generator: one seed gives one adapter.

    Args:
        model: timm classification model with a classifier, or a U-Net of diffusers.
        family: structure of the backbone, see `sites.family_of`.
        method: an entry of METHODS.
        config: instance of `method.config`.

    Raises:
        RecipeError: if the method does not fit the family or the backbone, the model is adapted already (it is then
            left as it was), or the method finds nothing to train.
    """
    _refuse_misfit(model, family, method)
    heads = sites.head_names(model)
    plain_keys = list(model.state_dict())
    freeze(model)
    injected = import_module(method.code).inject(model, family, config)
    setattr(model, MARK, method.name)

    for head in heads:
        for parameter in model.get_submodule(head).parameters():
            parameter.requires_grad_(True)
    head_names = [name for name, _ in model.named_parameters() if sites.in_modules(name, heads)]
    method_names = [name for name in injected.names if not sites.in_modules(name, heads)]
    if not method_names and method.name != "linear":
        raise RecipeError(
            f"method {method.name!r}: nothing to train in backbone {sites.backbone_name(model)!r} beside the classifier"
        )
    return Adapted(
        model=model,
        family=family,
        method=method,
        config=config,
        method_names=method_names,
        head_names=head_names,
        moving_names=injected.moving,
        matched=[name for name in injected.matched if not sites.in_modules(name, heads)],
        unmatched=injected.unmatched,
        plain_keys=plain_keys,
        injected=injected,
    )


def hold_norms(adapted: Adapted) -> None:
    """Put what must not move back into eval mode; call it after each `model.train()`.

    That is every BatchNorm whose statistics do not belong to the delta, and for linear probing and LST the whole backbone.
    """
    if adapted.method.still_backbone:
        adapted.model.eval()
    for name, module in adapted.model.named_modules():
        if isinstance(module, _BatchNorm) and f"{name}.running_mean" not in adapted.moving_names:
            module.eval()


def unreached(adapted: Adapted) -> list[str]:
    """Return trained parameters without a gradient after a backward pass: the forward pass goes around them.

    Some timm backbones (BEiT, EVA, Swin V2) compute with a layer's weight directly, so what is put on the layer is
    never called. The baseline `full` is exempt: a parameter that the backbone itself does not use stays as it was.
    """
    if adapted.method.name == "full":
        return []
    return [name for name, parameter in adapted.trainable() if parameter.grad is None]


def probe(adapted: Adapted, input_size: int) -> None:
    """Run one forward and backward pass in eval mode and refuse a backbone that goes around the method.

    Leaves mode, gradients and random numbers as they were before.

    Args:
        adapted: the adapted model, on any device but meta.
        input_size: side of the square image, pixels; of a U-Net, of its latents.

    Raises:
        RecipeError: if a trained parameter is not reached; it names them.
    """
    model = adapted.model
    modes = {module: module.training for module in model.modules()}
    inputs, options = sites.example_inputs(model, adapted.family, input_size)
    model.eval()
    output = model(*inputs, **options)
    (output[0] if isinstance(output, tuple) else output).float().sum().backward()
    names = unreached(adapted)
    model.zero_grad(set_to_none=True)
    for module, training in modes.items():
        module.training = training
    if names:
        refuse_unreached(adapted, names)


def refuse_unreached(adapted: Adapted, names: list[str]) -> None:
    """Raise the error for parameters that the forward pass does not reach."""
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    raise RecipeError(
        f"method {adapted.method.name!r} does not reach backbone {sites.backbone_name(adapted.model)!r}: "
        f"no gradient at {listed}",
        "the backbone computes with these layers' weights directly (fused F.linear) and goes around what is put on "
        "them; take a backbone with plain attention, or one of: attention, bias, norm, full, linear",
    )


def _refuse_misfit(model: nn.Module, family: Family, method: Method) -> None:
    """Raise the error for a method that is not for this family, or a model that is adapted already."""
    if family not in method.titles:
        why = f": {method.misfits[family]}" if family in method.misfits else ""
        fitting = sorted(name for name, other in METHODS.items() if family in other.titles)
        raise RecipeError(
            f"method {method.name!r} does not fit backbone {sites.backbone_name(model)!r} ({family}){why}; "
            f"it is for {' and '.join(method.titles)}",
            f"methods for {family}: {', '.join(fitting)}",
        )
    present = getattr(model, MARK, None) or ("an HF peft adapter" if hasattr(model, "peft_config") else None)
    if present:
        raise RecipeError(
            f"method {method.name!r}: the model already has {present!r} in it, wanted an unadapted backbone",
            "build the backbone anew, or merge first",
        )
