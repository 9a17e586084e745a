"""The methods that come from HF peft, one row each: names, hyper-parameters, facts. Imports neither torch nor peft.

A recipe's `rank`, `alpha`, `dropout` and `targets` mean the same for every method; a row says what peft calls them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, create_model, field_validator, model_validator

from medpeft_cli.methods.method import Family, Method
from medpeft_cli.recipe.schema import Strict

CONV_AND_LINEAR: tuple[Family, ...] = ("cnn", "vit", "unet")
LINEAR: tuple[Family, ...] = ("vit", "unet")


class TunerConfig(Strict):
    """What every method from HF peft takes."""

    targets: str | tuple[str, ...] | None = Field(
        None,
        description="layers to adapt: a regular expression of whole module names, or a list of names or their endings; "
        "null = attention's query, key and value (vit), and output too (unet), all ungrouped convolutions of the stages (cnn)",
    )

    @field_validator("targets")
    @classmethod
    def _compiles(cls, targets: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        if targets in ("", ()):
            raise ValueError("empty, wanted a regular expression, a list of names, or null")
        return targets


class ShrinkingConfig(TunerConfig):
    """What AdaLoRA's two ranks have to keep to."""

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.target_rank >= self.rank:
            raise ValueError(f"target_rank: {self.target_rank}, wanted less than rank {self.rank}")
        return self


class BankConfig(TunerConfig):
    """What VB-LoRA's bank has to hold."""

    @model_validator(mode="after")
    def _holds_enough(self) -> Self:
        if self.chosen > self.vectors:
            raise ValueError(f"chosen: {self.chosen}, wanted at most vectors {self.vectors}")
        return self


class Option(NamedTuple):
    """One hyper-parameter: our name, peft's name, type and pydantic field."""

    name: str
    peft_name: str
    type: Any
    field: Any


@dataclass(frozen=True)
class Tuner:
    """How one method of HF peft is called.

    Attributes:
        method: the facts that all methods have.
        config_class: name of the configuration class in `peft`.
        options: our hyper-parameter → peft's argument.
        fixed: further arguments, always the same.
        input_side: pattern of target names whose input is scaled instead of their output (IA3).
        seed: peft's argument for the seed of frozen random parts; each run draws its own.
        divides_by_norm: divides by the norm of each output's weights (DoRA), which may not be zero.
        permutes: keeps a square matrix of each layer's inputs (BOFT), which wide kernels of a U-Net blow up.
        decomposes: starts from the largest directions of each weight (PiSSA, OLoRA), of which there are not more than its rank.
        unit_kernels: why only convolutions with 1×1 kernels are adapted (OFT); "" = all are.
    """

    method: Method
    config_class: str
    options: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    input_side: str | None = None
    seed: str | None = None
    unit_kernels: str = ""
    divides_by_norm: bool = False
    permutes: bool = False
    decomposes: bool = False


def _rank(default: int, peft_name: str = "r", step: int = 1) -> Option:
    return Option("rank", peft_name, int, Field(default, ge=step, multiple_of=step, description="rank of the update"))


def _alpha(default: int, peft_name: str = "alpha") -> Option:
    return Option(
        "alpha",
        peft_name,
        int,
        Field(
            default, gt=0, description="scale of the update; it is multiplied by alpha / rank (rslora: alpha / √rank)"
        ),
    )


def _dropout(peft_name: str) -> Option:
    return Option(
        "dropout",
        peft_name,
        float,
        Field(0.0, ge=0, lt=1, description="probability on the adapter's input, while training"),
    )


def _count(name: str, peft_name: str, default: int, description: str, least: int = 1) -> Option:
    return Option(name, peft_name, int, Field(default, ge=least, description=description))


def _number(name: str, peft_name: str, default: float, description: str, **bounds: float) -> Option:
    return Option(name, peft_name, float, Field(default, description=description, **bounds))


def _switch(name: str, peft_name: str, description: str) -> Option:
    return Option(name, peft_name, bool, Field(False, description=description))


def _tuner(
    name: str,
    title: str,
    reference: str,
    config_class: str,
    families: tuple[Family, ...],
    *options: Option,
    fixed: Mapping[str, Any] | None = None,
    base: type[TunerConfig] = TunerConfig,
    no_cnn: str = "HF peft's implementation takes Linear layers only",
    no_unet: str = "",
    input_side: str | None = None,
    seed: str | None = None,
    unit_kernels: str = "",
    divides_by_norm: bool = False,
    permutes: bool = False,
    decomposes: bool = False,
    **facts: Any,
) -> Tuner:
    config = create_model(
        f"{name.capitalize()}Config",
        __base__=base,
        __doc__=f"Hyper-parameters of {title}.",
        **{option.name: (option.type, option.field) for option in options},
    )
    method = Method(
        name=name,
        titles=dict.fromkeys(families, title),
        reference=reference,
        config=config,
        misfits={family: why for family, why in (("cnn", no_cnn), ("unet", no_unet)) if family not in families},
        code="medpeft_cli.methods.hf",
        **facts,
    )
    renamed = {option.name: option.peft_name for option in options}
    return Tuner(
        method,
        config_class,
        renamed,
        fixed or {},
        input_side,
        seed,
        unit_kernels,
        divides_by_norm,
        permutes,
        decomposes,
    )


_LORA = (_rank(16), _alpha(16, "lora_alpha"), _dropout("lora_dropout"))
_SAVED = {"save_projection": True}
_DECOMPOSED = "HF peft decomposes the weights of Linear layers only"

_ROWS = (
    # --- low rank
    _tuner("lora", "LoRA", "Hu et al. 2022, arXiv:2106.09685", "LoraConfig", CONV_AND_LINEAR, *_LORA,
           silent_at_init=True, in_paper=("vit", "unet")),
    _tuner("rslora", "rsLoRA", "Kalajdzievski 2023, arXiv:2312.03732", "LoraConfig", CONV_AND_LINEAR, *_LORA,
           fixed={"use_rslora": True}, silent_at_init=True),
    _tuner("dora", "DoRA", "Liu et al. 2024, arXiv:2402.09353", "LoraConfig", CONV_AND_LINEAR, *_LORA,
           fixed={"use_dora": True}, silent_at_init=True, divides_by_norm=True),
    _tuner("pissa", "PiSSA", "Meng et al. 2024, arXiv:2404.02948", "LoraConfig", LINEAR, *_LORA,
           fixed={"init_lora_weights": "pissa"}, decomposes=True, no_cnn=_DECOMPOSED),
    _tuner("olora", "OLoRA", "Büyükakyüz 2024, arXiv:2406.01775", "LoraConfig", LINEAR, *_LORA,
           fixed={"init_lora_weights": "olora"}, decomposes=True, no_cnn=_DECOMPOSED),
    _tuner("adalora", "AdaLoRA", "Zhang et al. 2023, arXiv:2303.10512", "AdaLoraConfig", CONV_AND_LINEAR,
           _rank(12, "init_r"), _count("target_rank", "target_r", 8, "mean rank that is left at the end"),
           _alpha(16, "lora_alpha"), _dropout("lora_dropout"),
           _number("warmup", "tinit", 0.1, "fraction of the steps before the rank shrinks", ge=0, lt=1),
           _number("settle", "tfinal", 0.3, "fraction of the steps after the rank is settled", ge=0, lt=1),
           _number("orthogonality", "orth_reg_weight", 0.5, "weight of the penalty that keeps factors orthogonal", ge=0),
           base=ShrinkingConfig, silent_at_init=True),
    _tuner("loha", "LoHa", "Hyeon-Woo et al. 2022, arXiv:2108.06098", "LoHaConfig", CONV_AND_LINEAR,
           _rank(8), _alpha(8), _switch("effective_conv", "use_effective_conv2d", "factorise k×k kernels by their sides"),
           silent_at_init=True),
    _tuner("lokr", "LoKr", "Yeh et al. 2024 (LyCORIS), arXiv:2309.14859", "LoKrConfig", CONV_AND_LINEAR,
           _rank(8), _alpha(8), _switch("effective_conv", "use_effective_conv2d", "factorise k×k kernels by their sides"),
           _switch("decompose_both", "decompose_both", "give both Kronecker factors a low rank"), silent_at_init=True),
    _tuner("hira", "HiRA", "Huang et al. 2025, ICLR (openreview TwJrTz9cRS)", "HiraConfig", CONV_AND_LINEAR,
           _rank(32), _dropout("hira_dropout"), silent_at_init=True),
    _tuner("delora", "DeLoRA", "Bini et al. 2025, arXiv:2503.18225", "DeloraConfig", LINEAR,
           _rank(8), _count("bound", "delora_lambda", 15, "largest norm of the update at the start; it is trained"), silent_at_init=True),
    _tuner("miss", "MiSS", "Kang et al. 2024, arXiv:2409.15371", "MissConfig", LINEAR, _rank(64), _dropout("miss_dropout")),
    _tuner("gralora", "GraLoRA", "Jung et al. 2025, arXiv:2505.20355", "GraloraConfig", LINEAR,
           _rank(32), _alpha(64), _dropout("gralora_dropout"),
           _count("blocks", "gralora_k", 2, "blocks along each side of the weight"), silent_at_init=True),
    _tuner("glora", "GLoRA", "Chavan et al. 2023, arXiv:2306.07967", "GloraConfig", LINEAR, _rank(8), silent_at_init=True),
    _tuner("peanut", "PEANuT", "Zhong et al. 2024, arXiv:2410.01870", "PeanutConfig", LINEAR,
           _rank(32), _number("scale", "scaling", 1.0, "multiplier of the update", gt=0),
           _count("depth", "depth", 0, "hidden layers of the network that makes the update", least=0), silent_at_init=True),
    _tuner("deft", "DEFT", "Decompositional Efficient Fine-Tuning, NeurIPS 2025", "DeftConfig", LINEAR,
           _rank(8), _dropout("deft_dropout")),
    # --- random projections, shared vectors
    _tuner("vera", "VeRA", "Kopiczko et al. 2024, arXiv:2310.11454", "VeraConfig", LINEAR,
           _rank(256), _dropout("vera_dropout"), fixed=_SAVED, seed="projection_prng_key", silent_at_init=True),
    _tuner("pvera", "PVeRA", "Probabilistic VeRA 2025, arXiv:2512.07703", "PveraConfig", LINEAR,
           _rank(256), _dropout("pvera_dropout"), fixed=_SAVED, seed="projection_prng_key", silent_at_init=True),
    _tuner("randlora", "RandLoRA", "Albert et al. 2025, arXiv:2502.00987", "RandLoraConfig", LINEAR,
           _rank(32), _alpha(640, "randlora_alpha"), _dropout("randlora_dropout"),
           fixed=_SAVED, seed="projection_prng_key", silent_at_init=True),
    _tuner("tinylora", "TinyLoRA", "TinyLoRA 2026, arXiv:2602.04118", "TinyLoraConfig", LINEAR,
           _rank(2), _count("numbers", "u", 64, "trained numbers per layer"), _dropout("tinylora_dropout"),
           fixed=_SAVED, seed="projection_seed"),
    _tuner("unilora", "Uni-LoRA", "Li et al. 2025, arXiv:2506.00799", "UniLoraConfig", LINEAR,
           _rank(4), _count("numbers", "theta_d_length", 256, "trained numbers in all"), _dropout("unilora_dropout"),
           seed="proj_seed", exact_at_init=False),
    _tuner("vblora", "VB-LoRA", "Li et al. 2024, arXiv:2405.15179", "VBLoRAConfig", LINEAR,
           _rank(4), _count("vectors", "num_vectors", 256, "vectors in the shared bank"),
           _count("vector_length", "vector_length", 64, "numbers per vector; must divide the layer's sides"),
           _count("chosen", "topk", 2, "vectors mixed into each piece"), _dropout("vblora_dropout"),
           base=BankConfig, exact_at_init=False),
    _tuner("frod", "FRoD", "FRoD 2026, AAAI, doi:10.1609/aaai.v40i31.39813", "FrodConfig", ("vit",), _dropout("frod_dropout"),
           fixed=_SAVED | {"progressbar": False}, seed="projection_prng_key",
           no_unet="its factors are shared by layers of one width, and a U-Net has several"),
    # --- sparse, spectral, circulant
    _tuner("shira", "SHiRA", "Bhardwaj et al. 2024, arXiv:2406.13175", "ShiraConfig", LINEAR,
           _rank(32), seed="random_seed"),
    _tuner("supertuning", "SuperTuning", "SuperTuning 2026, arXiv:2607.09287", "SupertuningConfig", LINEAR,
           _number("sparsity", "sparsity", 0.99, "fraction of each weight that stays as it is", gt=0, lt=1)),
    _tuner("fourierft", "FourierFT", "Gao et al. 2024, arXiv:2405.03003", "FourierFTConfig", LINEAR,
           _count("frequencies", "n_frequency", 1000, "trained Fourier coefficients per layer"),
           _number("scale", "scaling", 150.0, "multiplier of the update", gt=0),
           fixed={"init_weights": True}, seed="random_loc_seed"),
    _tuner("waveft", "WaveFT", "Bilican et al. 2025, arXiv:2505.12532", "WaveFTConfig", LINEAR,
           _count("frequencies", "n_frequency", 2592, "trained wavelet coefficients per layer"),
           _number("scale", "scaling", 25.0, "multiplier of the update", gt=0), seed="random_loc_seed"),
    _tuner("c3a", "C3A", "Chen et al. 2024, arXiv:2407.19342", "C3AConfig", LINEAR,
           _count("block_size", "block_size", 64, "side of a circulant block; must divide the layer's sides"),
           fixed={"init_weights": True}),
    # --- scales, rotations, subspaces
    _tuner("ia3", "IA3", "Liu et al. 2022, arXiv:2205.05638", "IA3Config", CONV_AND_LINEAR, input_side=r".*\.(mlp\.fc2|ff\.net\.2)"),
    _tuner("road", "RoAd", "Liao and Monz 2024, arXiv:2409.00119", "RoadConfig", LINEAR,
           Option("variant", "variant", Literal["road_1", "road_2", "road_4"],
                  Field("road_1", description="numbers shared by a pair of features: 1, 2 or 4")),
           _count("group_size", "group_size", 64, "features paired within one group; must divide the layer's output")),
    _tuner("oft", "OFT", "Qiu et al. 2023, arXiv:2306.07280", "OFTConfig", CONV_AND_LINEAR,
           _count("block_size", "oft_block_size", 32, "side of an orthogonal block"),
           unit_kernels="HF peft folds overlapping patches of wider kernels back by summation, which is not the identity "
           "at the start and does not merge"),
    _tuner("boft", "BOFT", "Liu et al. 2024, arXiv:2311.06243", "BOFTConfig", CONV_AND_LINEAR,
           _count("block_size", "boft_block_size", 4, "side of an orthogonal block; must divide the layer's input"),
           _dropout("boft_dropout"), permutes=True),
    _tuner("hra", "HRA", "Yuan et al. 2024, arXiv:2405.17484", "HRAConfig", CONV_AND_LINEAR,
           _rank(8, step=2)),
    _tuner("psoft", "PSOFT", "PSOFT 2026, ICLR (openreview FSHrinMArK)", "PsoftConfig", LINEAR,
           _rank(32), _alpha(32, "psoft_alpha"), _dropout("psoft_dropout")),
    _tuner("osf", "OSF", "Nayak et al. 2025, arXiv:2504.07097", "OSFConfig", LINEAR,
           _number("kept", "effective_rank", 0.5, "fraction of the singular directions that stay frozen", gt=0, lt=1),
           no_cnn="HF peft leaves convolutions as they are and would train nothing"),
    _tuner("beft", "BEFT", "BEFT 2025, arXiv:2509.15974", "BeftConfig", LINEAR),
)  # fmt: skip

TUNERS: dict[str, Tuner] = {tuner.method.name: tuner for tuner in _ROWS}
TUNER_OF: dict[type[Strict], Tuner] = {tuner.method.config: tuner for tuner in _ROWS}
