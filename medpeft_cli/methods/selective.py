"""Methods that train a part of the backbone as it is: full, linear, partial, bias, norm, attention and their union.

A rule sees a parameter's name and the module that owns it; a classifier is trained beside it in every case.
"""

from collections.abc import Callable

from torch import nn

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.catalogue import (
    AttentionConfig,
    BiasConfig,
    BiasNormAttentionConfig,
    FullConfig,
    LinearConfig,
    NormConfig,
    PartialConfig,
)
from medpeft_cli.methods.inject import Injected, unfreeze
from medpeft_cli.models import sites
from medpeft_cli.recipe.schema import Strict

Rule = Callable[[str, nn.Module], bool]


def every_parameter(name: str, owner: nn.Module) -> bool:
    """Hold for all parameters: full fine-tuning."""
    return True


def no_parameter(name: str, owner: nn.Module) -> bool:
    """Hold for none: linear probing trains the classifier alone."""
    return False


def is_bias(name: str, owner: nn.Module) -> bool:
    """Hold where the parameter's own name is exactly `bias` (paper p. 18; BitFit; TinyTL)."""
    return name.rpartition(".")[2] == "bias"


def is_norm(name: str, owner: nn.Module) -> bool:
    """Hold for the affine parameters of every Batch-, Group-, Layer- or RMSNorm (paper p. 18)."""
    return isinstance(owner, sites.NORM_TYPES)


def is_attention(name: str, owner: nn.Module) -> bool:
    """Hold for names with `.attn.` (Touvron et al. 2022, DeiT's --attn-only)."""
    return ".attn." in name


def is_attention_or_position(name: str, owner: nn.Module) -> bool:
    """Hold for names with `.attn.` and for the position embedding, as DeiT's code and the paper do (p. 4)."""
    return ".attn." in name or name == "pos_embed"


def attention_rule(model: nn.Module, family: str, config: AttentionConfig | BiasNormAttentionConfig) -> Rule:
    """Return the rule of attention tuning: by name on a ViT, by module on a U-Net.

    On a U-Net `scope: transformer` holds for the same parameters as the paper's rule, names with `attentions` (p. 19):
    norms, projections and feed-forward of each transformer stack too.
    """
    if family == "vit":
        return is_attention_or_position if config.pos_embed else is_attention
    places = sites.transformer_stacks(model) if config.scope == "transformer" else sites.attentions(model)
    modules = [name for name, _ in places]
    return lambda name, owner: sites.in_modules(name, modules)


def partial_rule(model: nn.Module, family: str, config: PartialConfig) -> Rule:
    """Return the rule of partial-k: the last k blocks of a ViT or stages of a CNN, and all between them and the classifier.

    timm registers modules in the order in which they run, so that what lies behind the first of them is what comes after it.

    Raises:
        RecipeError: if the backbone has fewer, or no such parts.
    """
    parts = sites.transformer_blocks(model) if family == "vit" else sites.stages(model)
    kind, least = ("blocks", 1) if family == "vit" else ("stages", 0)
    if not least <= config.last <= len(parts):
        raise RecipeError(
            f"method.last: {config.last} on backbone {sites.backbone_name(model)!r} with {len(parts)} {kind}, "
            f"wanted {least} to {len(parts)}"
        )
    first = parts[-config.last][0] if config.last else sites.last_block(*parts[-1])
    names = [name for name, _ in model.named_parameters()]
    start = next(place for place, name in enumerate(names) if sites.in_modules(name, [first]))
    trained = frozenset(names[start:])
    return lambda name, owner: name in trained


def rule_of(model: nn.Module, family: str, config: Strict) -> Rule:
    """Return the rule that belongs to a configuration."""
    if isinstance(config, AttentionConfig):
        return attention_rule(model, family, config)
    if isinstance(config, BiasNormAttentionConfig):
        attention = attention_rule(model, family, config)
        return lambda name, owner: is_bias(name, owner) or is_norm(name, owner) or attention(name, owner)
    if isinstance(config, PartialConfig):
        return partial_rule(model, family, config)
    return RULES[type(config)]


RULES: dict[type[Strict], Rule] = {
    FullConfig: every_parameter,
    LinearConfig: no_parameter,
    BiasConfig: is_bias,
    NormConfig: is_norm,
}


def inject(model: nn.Module, family: str, config: Strict) -> Injected:
    """Unfreeze the parameters of the rule that belongs to this configuration.

    The running statistics of a BatchNorm move where the method trains its weight or bias, unless `statistics: hold`.
    """
    names = unfreeze(model, rule_of(model, family, config))
    owners = {name.rpartition(".")[0] for name in names}
    adapts = getattr(config, "statistics", "adapt") == "adapt"
    moving = [
        buffer
        for name, norm in sites.batch_norms(model)
        if adapts and name in owners
        for buffer in sites.statistics(name, norm)
    ]
    matched = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
    return Injected(names, list(matched), moving=moving)
