"""What a recipe may say: strict, frozen pydantic models. A field's description is its documentation."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medpeft_cli.recipe.search import Search
from medpeft_cli.recipe.strict import Strict

SelectMetric = Literal["f1_macro", "f1_weighted", "accuracy", "balanced_accuracy", "auroc_ovr", "loss"]
Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
SchedulerName = Literal["ddim", "ddpm", "dpmsolver", "euler", "euler_ancestral", "heun", "pndm", "unipc"]


class Data(Strict):
    """Which dataset, and how much of its training split."""

    card: str = Field(
        min_length=1, description="name of a dataset card (`medpeft list datasets`) or the path of your own card"
    )
    root: Path | None = Field(None, description="prepared dataset, as `medpeft prepare` made it; default data/<card>")
    fraction: float = Field(1.0, gt=0, le=1, description="fraction of the training split, 0–1, stratified and nested")
    k_shot: int | None = Field(None, ge=1, description="images per class instead of a fraction; null = use fraction")

    @property
    def folder(self) -> Path:
        """The prepared dataset: root, or data/<card>."""
        return self.root or Path("data") / Path(self.card).stem

    @model_validator(mode="after")
    def _one_subset(self) -> "Data":
        if self.k_shot is not None and self.fraction != 1.0:
            raise ValueError("give fraction or k_shot, not both")
        return self


class Input(Strict):
    """What the backbone reads. Each null is taken from the data configuration that belongs to the weights."""

    size: int | None = Field(None, ge=16, description="side of the square input, pixels")
    mean: tuple[Share, Share, Share] | None = Field(None, description="per RGB channel, of values in 0–1")
    std: tuple[Spread, Spread, Spread] | None = Field(None, description="per RGB channel, of values in 0–1")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = Field(
        None, description="filter of every resize, always antialiased"
    )
    crop_pct: float | None = Field(
        None, gt=0, le=1, description="centre crop at evaluation, fraction of the resized side"
    )


OWNED_OPTIONS = {  # arguments of timm.create_model that other fields decide, or that would break the line
    "num_classes": "the dataset says how many classes there are",
    "in_chans": "pictures are always read as RGB",
    "pretrained": "set backbone.weights",
    "checkpoint_path": "set backbone.weights",
    "img_size": "set backbone.input.size",
    "pretrained_cfg": "set backbone.input",
    "pretrained_cfg_overlay": "set backbone.input",
    "features_only": "a classifier is needed",
}


class Backbone(Strict):
    """The pre-trained network."""

    name: str = Field(
        min_length=1, description="timm name (`resnet50.a1_in1k`), `hf-hub:ORG/NAME`, or `demo_vit` / `demo_resnet`"
    )
    weights: str = Field(
        "pretrained", description="pretrained = those of the name's tag; random; or a local .safetensors or .pth file"
    )
    options: dict[str, Any] = Field({}, description="further arguments of timm.create_model, such as pad_type: same")
    input: Input = Field(Input(), description="overrides of the data configuration")

    @field_validator("options")
    @classmethod
    def _not_the_recipes(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(options.keys() & OWNED_OPTIONS.keys()):
            raise ValueError("; ".join(f"{name}: {OWNED_OPTIONS[name]}" for name in taken))
        return options


class MethodChoice(BaseModel):
    """A PEFT method by name, with its hyper-parameters beside the name (`medpeft list methods`)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(description="PEFT method (`medpeft list methods`)")

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters: every key but the name."""
        return dict(self.model_extra or {})


class Augment(Strict):
    """Random changes of training images. The draw is a function of (seed, epoch, image)."""

    crop_scale: tuple[float, float] | None = Field(
        (0.5, 1.0), description="area of the random crop, fraction of the image; null = centre crop as at evaluation"
    )
    crop_ratio: tuple[float, float] = Field(
        (0.75, 1.3333), description="aspect ratio of the random crop, width / height"
    )
    horizontal_flip: float = Field(0.5, ge=0, le=1, description="probability")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="probability")
    brightness: float = Field(0.0, ge=0, lt=1, description="largest relative change of brightness, 0–1")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest relative change of contrast, 0–1")
    views: int | None = Field(
        None,
        ge=1,
        description="random versions of each image, shown in turn; what is frozen is computed once for each. null = a new "
        "version in every epoch",
    )

    @property
    def random(self) -> bool:
        """Whether anything is changed at random."""
        changes = self.horizontal_flip, self.vertical_flip, self.brightness, self.contrast
        return self.crop_scale is not None or any(changes)

    @model_validator(mode="after")
    def _ranges(self) -> "Augment":
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError("crop_scale must be two fractions with 0 < low ≤ high ≤ 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError("crop_ratio must be two ratios with 0 < low ≤ high")
        if self.views is not None and not self.random:
            raise ValueError("views: nothing is changed at random, so all versions are alike; leave it out")
        return self


class Optimisation(Strict):
    """What the training of every task has."""

    batch_size: int = Field(512, ge=1, description="images per optimiser step; an epoch is cut into near-equal batches")
    micro_batch_size: int = Field(
        64, ge=1, description="images per forward pass; more are accumulated. Smaller = less memory"
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        1e-4, ge=0, description="AdamW; never applied to vectors: tensors with at most one side longer than 1"
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="AdamW's running averages")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate after the warm-up")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; null = no clipping")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="arithmetic of the forward pass; trained tensors stay float32"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, about 1.3 × the time")
    compile: bool = Field(
        False,
        description="compile the blocks for training, for GPUs: minutes at first, then kept on disk; not part of the identity",
    )
    checkpoint_seconds: float = Field(120.0, ge=0, description="time between checkpoints; 0 = after every step")


class Train(Optimisation):
    """Optimisation: AdamW with linear warm-up and a cosine or constant rate."""

    epochs: int = Field(30, ge=1, description="passes over the training split")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warm-up")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="weights of the loss, inverse to class counts"
    )
    sampling: Literal["shuffle", "balanced"] = Field("shuffle", description="balanced = every class equally often")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="mass of the target spread over all classes")
    select: SelectMetric = Field("f1_macro", description="validation metric that picks the epoch")
    patience_epochs: int | None = Field(None, ge=1, description="stop after so many epochs without gain; null = never")

    @model_validator(mode="after")
    def _balanced_once(self) -> "Train":
        if self.class_weights == self.sampling == "balanced":
            raise ValueError(
                "give class_weights: balanced or sampling: balanced, not both: each alone evens the classes out"
            )
        return self


class Intervals(Strict):
    """How sure each metric is."""

    bootstrap: int = Field(1000, ge=0, description="resamples behind each interval; 0 = no intervals")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of each interval")


class Evaluate(Intervals):
    """How the test split is scored."""

    batch_size: int = Field(128, ge=1, description="images per forward pass")


class Recipe(Strict):
    """What the recipes of every task have."""

    task: Literal["classify", "generate"] = Field(
        description="classify = one class a picture; generate = pictures from text"
    )
    data: Data
    method: MethodChoice
    search: Search = Search()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of everything random, each thing on its own")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto, cpu, cuda, cuda:1 or mps; not part of the run's identity",
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="threads that prepare images; not part of the identity"
    )
    track: Literal["tensorboard", "wandb", "mlflow", "trackio"] | None = Field(
        None, description="also send losses, metrics and the recipe to a tracker; not part of the identity"
    )
    demo: bool = Field(False, description="set by --demo: synthetic data and bundled weights")

    @property
    def pretrained_name(self) -> str:
        """Name of the pre-trained network."""
        raise NotImplementedError

    @property
    def weights_file(self) -> Path:
        """The file that holds its weights, if they are in one."""
        raise NotImplementedError


class ClassifyRecipe(Recipe):
    """Fine-tune a backbone to classify images."""

    task: Literal["classify"] = Field(description="classify")
    backbone: Backbone
    train: Train = Train()
    augment: Augment = Augment()
    evaluate: Evaluate = Evaluate()

    @property
    def pretrained_name(self) -> str:
        """Name of the backbone."""
        return self.backbone.name

    @property
    def weights_file(self) -> Path:
        """The backbone's weights; no file where they are timm's own."""
        return Path(self.backbone.weights)


# --- text-to-image -------------------------------------------------------------------------------------------------


class Pipeline(Strict):
    """The pre-trained Stable Diffusion. Its U-Net is tuned; VAE and text encoder stay as they are."""

    name: str = Field(
        min_length=1,
        description="Hugging Face id, folder of a diffusers pipeline, .safetensors file of a whole pipeline, or `demo_sd`",
    )
    variant: str | None = Field(
        None, description="files to take where there are several, such as fp16; null = the plain"
    )
    config: str | None = Field(
        None,
        description="for a single file: folder or id that has its configurations and tokenizer; null = the published",
    )
    size: int | None = Field(
        None,
        ge=16,
        multiple_of=8,
        description="side of the square pictures, pixels; null = what the U-Net was made for",
    )


class DenoiseTrain(Optimisation):
    """Optimisation: AdamW on the mean squared error of the predicted noise (or velocity, as the scheduler says)."""

    steps: int = Field(15_000, ge=1, description="optimiser steps")
    batch_size: int = Field(64, ge=1, description="images per optimiser step")
    micro_batch_size: int = Field(
        16, ge=1, description="images per forward pass; more are accumulated. Smaller = less memory"
    )
    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    schedule: Literal["cosine", "constant"] = Field("constant", description="learning rate after the warm-up")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    prompt_dropout: Share = Field(0.1, description="probability that a picture is shown with an empty prompt")
    min_snr_gamma: float | None = Field(
        None, gt=0, description="weight the timesteps by min(SNR, gamma), such as 5; null = all alike"
    )
    ema_decay: Decay | None = Field(
        None, description="keep a running average of the trained tensors, such as 0.999; null = the tensors themselves"
    )
    validate_steps: int = Field(
        1000, ge=1, description="steps between two validations: loss on fixed noise, sample pictures"
    )
    select: Literal["last", "loss"] = Field(
        "last", description="weights that are kept: of the last step, or of the lowest validation loss"
    )


class Sample(Strict):
    """How pictures are generated from the prompts of the test split."""

    prompts: int | None = Field(
        1000, ge=1, description="test pictures whose texts are the prompts, evenly spaced; null = all"
    )
    count: int = Field(1, ge=1, description="images per prompt")
    steps: int = Field(75, ge=1, le=500, description="denoising steps")
    guidance: float = Field(4.0, ge=0, description="classifier-free guidance scale; 1 and less = none")
    scheduler: SchedulerName | None = Field(None, description="sampler; null = the pipeline's own")
    batch_size: int = Field(16, ge=1, description="images at once; not a part of the result")


class EvaluateImages(Intervals):
    """How generated pictures are compared with those of the test split, whose texts were their prompts."""

    encoder: str = Field(
        "inception", min_length=1, description="feature network of FID and its kin (`medpeft list encoders`)"
    )
    encoder_weights: str | None = Field(None, description="file of its weights, where they are in one")
    clip: str | None = Field(None, description="open_clip model of the CLIP score; null = no CLIP score")
    nearest: bool = Field(
        True, description="distance to the nearest training picture (memorisation); reads all training pictures once"
    )


class GenerateRecipe(Recipe):
    """Fine-tune a text-to-image pipeline."""

    task: Literal["generate"] = Field(description="generate")
    pipeline: Pipeline
    train: DenoiseTrain = DenoiseTrain()
    sample: Sample = Sample()
    evaluate: EvaluateImages = EvaluateImages()

    @property
    def pretrained_name(self) -> str:
        """Name of the pipeline."""
        return self.pipeline.name

    @property
    def weights_file(self) -> Path:
        """The whole pipeline in one file; no file where it is a folder or on the hub."""
        return Path(self.pipeline.name)


RECIPES: dict[str, type[Recipe]] = {"classify": ClassifyRecipe, "generate": GenerateRecipe}
