"""The methods that are our own: names, hyper-parameters and facts. Imports no torch; the code is in each `code`."""

from typing import Literal

from pydantic import Field

from medpeft_cli.methods.method import Method
from medpeft_cli.recipe.schema import Strict

Statistics = Literal["adapt", "hold"]
Scope = Literal["transformer", "attention"]
_SCOPE = (
    "of a U-Net: transformer = all that lies under `attentions`, as the paper; attention = the attention modules alone"
)


class FullConfig(Strict):
    """Full fine-tuning has no hyper-parameters of its own."""


class LinearConfig(Strict):
    """Linear probing has no hyper-parameters of its own."""


class PartialConfig(Strict):
    """How much of the backbone's end."""

    last: int = Field(
        1,
        ge=0,
        description="k: blocks of a ViT or stages of a CNN that are trained, with all behind them; 0 = of a CNN the last block",
    )
    statistics: Statistics = Field(
        "adapt", description="running statistics of the trained BatchNorms: adapt and are saved, or hold"
    )


class BiasConfig(Strict):
    """Which biases: all of them."""

    statistics: Statistics = Field(
        "adapt", description="running statistics of a BatchNorm whose bias is trained: adapt and are saved, or hold"
    )


class NormConfig(Strict):
    """Which norm layers: all of them, weight and bias."""

    statistics: Statistics = Field(
        "adapt", description="running statistics of BatchNorm: adapt and are saved, or hold (better for tiny batches)"
    )


class AttentionConfig(Strict):
    """Which attention parameters."""

    pos_embed: bool = Field(
        True, description="of a ViT: train the position embedding too, as DeiT's code and the paper do"
    )
    scope: Scope = Field("transformer", description=_SCOPE)


class BiasNormAttentionConfig(Strict):
    """Which attention parameters beside all biases and norm layers."""

    scope: Scope = Field("transformer", description=_SCOPE)


class SSFConfig(Strict):
    """Scale and shift."""

    init_std: float = Field(
        0.0,
        ge=0,
        le=1,
        description="spread of scale around 1 and shift around 0; 0 starts at the identity, official 0.02",
    )


class AdaptFormerConfig(Strict):
    """The bottleneck beside the MLP."""

    bottleneck: int = Field(64, ge=1, description="width of the bottleneck; the paper's counts imply 5")
    scale: float = Field(0.1, gt=0, description="fixed multiplier of the branch")
    dropout: float = Field(0.1, ge=0, lt=1, description="probability, inside the bottleneck, while training")
    branch_input: Literal["norm", "residual"] = Field(
        "norm", description="norm = LN(x) as both papers print; residual = x as the official code has it"
    )


class LSTConfig(Strict):
    """The width of the side network."""

    reduction: int = Field(
        8, ge=2, description="r: the side network is this many times narrower than the backbone; divides a head's width"
    )


class TSAConfig(Strict):
    """The adapter beside each convolution."""

    convs: Literal["block", "3x3"] = Field(
        "block",
        description="block = every convolution of a residual block, as the paper; 3x3 = those alone, as Li et al.",
    )
    form: Literal["matrix", "vector"] = Field(
        "matrix",
        description="matrix = 1×1 convolution; vector = one number per channel, where input and output channels agree",
    )
    init: float = Field(0.0, ge=0, le=1, description="multiple of the identity at the start; 0 = exact, official 1e-4")


class SVDiffConfig(Strict):
    """Spectral shifts have no hyper-parameters of their own."""


class DiffFitConfig(Strict):
    """Where the scales stand."""

    scales: Literal["branches", "projections"] = Field(
        "branches",
        description="branches = one per attention and feed-forward; projections = also one after each of an attention's "
        "query, key, value and output, as the paper's count implies",
    )


OWN = (
    Method(
        name="full",
        titles={"cnn": "Full FT", "vit": "Full FT", "unet": "Full FT"},
        reference="baseline: every parameter",
        config=FullConfig,
        code="medpeft_cli.methods.selective",
        moves_norm_statistics=True,
        baseline=True,
    ),
    Method(
        name="linear",
        titles={"cnn": "Linear Probing", "vit": "Linear Probing"},
        reference="baseline: the classifier alone",
        misfits={"unet": "it has no classifier"},
        config=LinearConfig,
        code="medpeft_cli.methods.selective",
        still_backbone=True,
        baseline=True,
    ),
    Method(
        name="partial",
        titles={"cnn": "Partial-k", "vit": "Partial-k"},
        reference="Yosinski et al. 2014, arXiv:1411.1792; Jia et al. 2022 (VPT), arXiv:2203.12119",
        misfits={"unet": "its last blocks read what its first blocks give, so it has no end to train alone"},
        config=PartialConfig,
        code="medpeft_cli.methods.selective",
        moves_norm_statistics=True,
    ),
    Method(
        name="bias",
        titles={"cnn": "Bias Tuning", "vit": "BitFit", "unet": "Bias"},
        reference="Cai et al. 2020 (TinyTL), arXiv:2007.11622; Ben Zaken et al. 2022 (BitFit), arXiv:2106.10199",
        config=BiasConfig,
        code="medpeft_cli.methods.selective",
        moves_norm_statistics=True,
        in_paper=("cnn", "vit", "unet"),
    ),
    Method(
        name="norm",
        titles={"cnn": "BN Tuning", "vit": "LayerNorm Tuning", "unet": "Norm"},
        reference="Frankle et al. 2021, arXiv:2003.00152; Basu et al. 2023, arXiv:2304.01917",
        config=NormConfig,
        code="medpeft_cli.methods.selective",
        moves_norm_statistics=True,
        in_paper=("cnn", "vit", "unet"),
    ),
    Method(
        name="attention",
        titles={"vit": "Attention Tuning", "unet": "Attention"},
        reference="Touvron et al. 2022, arXiv:2203.09795",
        misfits={"cnn": "it has no attention"},
        config=AttentionConfig,
        code="medpeft_cli.methods.selective",
        in_paper=("vit", "unet"),
    ),
    Method(
        name="bias_norm_attention",
        titles={"unet": "Bias+Norm+Attention"},
        reference="Dutt et al. 2024, arXiv:2305.08252",
        misfits={"cnn": "it has no attention", "vit": "it is the paper's combination for U-Nets"},
        config=BiasNormAttentionConfig,
        code="medpeft_cli.methods.selective",
        in_paper=("unet",),
    ),
    Method(
        name="ssf",
        titles={"cnn": "SSF", "vit": "SSF"},
        reference="Lian et al. 2022, arXiv:2210.08823",
        misfits={"unet": "it is defined for classification backbones"},
        config=SSFConfig,
        code="medpeft_cli.methods.ssf",
        in_paper=("cnn", "vit"),
    ),
    Method(
        name="adaptformer",
        titles={"vit": "AdaptFormer"},
        reference="Chen et al. 2022, arXiv:2205.13535",
        misfits={
            "cnn": "it has no blocks of attention and MLP",
            "unet": "its blocks have two attentions, and no version for them is published",
        },
        config=AdaptFormerConfig,
        code="medpeft_cli.methods.adaptformer",
        silent_at_init=True,
        mergeable=False,
        in_paper=("vit",),
    ),
    Method(
        name="lst",
        titles={"vit": "LST"},
        reference="Sung et al. 2022, arXiv:2206.06522",
        misfits={
            "cnn": "its side network is made of transformer blocks of one width",
            "unet": "no version for diffusion models is published",
        },
        config=LSTConfig,
        code="medpeft_cli.methods.lst",
        exact_at_init=False,
        mergeable=False,
        still_backbone=True,
    ),
    Method(
        name="tsa",
        titles={"cnn": "TSA"},
        reference="Li et al. 2022, arXiv:2107.00358",
        misfits={
            "vit": "it has no residual blocks of convolutions",
            "unet": "no version for diffusion models is published",
        },
        config=TSAConfig,
        code="medpeft_cli.methods.tsa",
        in_paper=("cnn",),
    ),
    Method(
        name="svdiff",
        titles={"unet": "SV-Diff"},
        reference="Han et al. 2023, arXiv:2303.11305",
        misfits=dict.fromkeys(("cnn", "vit"), "it is made for diffusion models"),
        config=SVDiffConfig,
        code="medpeft_cli.methods.svdiff",
        in_paper=("unet",),
    ),
    Method(
        name="difffit",
        titles={"unet": "DiffFit"},
        reference="Xie et al. 2023, arXiv:2304.06648",
        misfits=dict.fromkeys(("cnn", "vit"), "its scales belong to the blocks of a diffusion model"),
        config=DiffFitConfig,
        code="medpeft_cli.methods.difffit",
        in_paper=("unet",),
    ),
)
