"""What is known of a PEFT method before torch is imported: names, hyper-parameters, where it fits, what it promises."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from medpeft_cli.recipe.schema import Strict

Family = Literal["cnn", "vit", "unet"]


@dataclass(frozen=True)
class Method:
    """One PEFT method: facts, and the module whose `inject` puts it into a model.

    Attributes:
        name: registry key and recipe value, such as "lora".
        titles: family → the name the paper prints; the keys are the families the method supports.
        reference: paper with its arXiv number.
        config: hyper-parameters with bounds.
        code: module with `inject(model, family, config) -> Injected` and, where `mergeable`, `merge(model)`.
        misfits: family that it does not fit → why, completing "does not fit: …".
        exact_at_init: the adapted model equals the base model right after injection.
        silent_at_init: some trained tensors have a zero gradient at the first step (LoRA's A).
        mergeable: can be folded into the base weights, at no cost in inference.
        moves_norm_statistics: BatchNorm running statistics adapt while training and belong to the delta.
        still_backbone: all that is trained reads what the frozen backbone gives, which stays in eval mode, without dropout.
        baseline: not a PEFT method (full fine-tuning, linear probing): not counted among the paper's 17.
        in_paper: the families in which the paper evaluates it.
    """

    name: str
    titles: Mapping[Family, str]
    reference: str
    config: type[Strict]
    code: str
    misfits: Mapping[Family, str] = field(default_factory=dict)
    exact_at_init: bool = True
    silent_at_init: bool = False
    mergeable: bool = True
    moves_norm_statistics: bool = False
    still_backbone: bool = False
    baseline: bool = False
    in_paper: tuple[Family, ...] = ()
