"""Feature networks by name: a picture in, one vector out, with everything said that decides the vector.

Every encoder reads the largest centred square of a picture, as the generator was trained on squares, resized in one step.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from medpeft_cli import compat  # noqa: F401  (before timm, open_clip and transformers)
from medpeft_cli.errors import DataError, MedpeftError, RecipeError
from medpeft_cli.metrics.resize import Resize, centre_square, clean_resize, tensorflow_resize
from medpeft_cli.models.backbones import build_trunk, first_line, input_spec, read_weights, state_sha256
from medpeft_cli.recipe.schema import Backbone, Input
from medpeft_cli.registry import unknown_hint

INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
XRAY_WEIGHTS = "densenet121-res224-mimic_ch"
HUB_HINT = "without a network, fetch them once on a machine that has one (same HF_HOME)"


@dataclass(frozen=True)
class Encoder:
    """A feature network and how it reads pictures.

    Attributes:
        name: as given.
        network: float32 (B, 3, S, S), normalised → (B, F).
        size: S, pixels.
        mean: per RGB channel, of values in 0–1.
        std: per RGB channel, of values in 0–1.
        weights: where they are from.
        sha256: of the network's tensors.
        device: where it computes.
        resize: from the centred square to S × S.
        filter: name of the resize's filter.
        antialias: whether that filter is antialiased.
    """

    name: str
    network: nn.Module
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: str
    sha256: str
    device: torch.device
    resize: Resize = clean_resize
    filter: str = "bicubic (Pillow, float)"
    antialias: bool = True

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """Crop and resize one picture.

        Shape:
            pixels: uint8 (H, W) or (H, W, 3) → float32 (3, S, S), values 0–255; grey is repeated.
        """
        resized = torch.from_numpy(np.ascontiguousarray(self.resize(centre_square(pixels), self.size)))
        return resized.expand(3, -1, -1) if resized.ndim == 2 else resized.permute(2, 0, 1)

    @torch.inference_mode()
    def encode(self, batch: Tensor) -> Tensor:
        """Return the features of prepared pictures: float32 (B, 3, S, S) in 0–255 → float32 (B, F) on the CPU."""
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) * 255 for values in (self.mean, self.std))
        return self.network((batch.to(self.device) - mean) / std).float().cpu()

    def features(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return the features of pictures of any sizes: uint8 (H, W), (H, W, 3) → float32 (B, F)."""
        return self.encode(torch.stack([self.prepare(image) for image in images]))

    def protocol(self) -> dict[str, Any]:
        """Return everything that decides the features, JSON-ready."""
        return {
            "name": self.name,
            "weights": self.weights,
            "sha256": self.sha256,
            "crop": "largest centred square",
            "size_pixels": self.size,
            "filter": self.filter,
            "antialias": self.antialias,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def load_encoder(name: str, device: torch.device, weights: Path | None = None) -> Encoder:
    """Load a feature network by name (`medpeft list encoders`).

    Args:
        name: inception, inception-clean, xrv-densenet121, demo, timm:NAME, open_clip:NAME or hf:ID.
        device: where it computes.
        weights: a local file instead of those that the name stands for.

    Raises:
        RecipeError: for an unknown name, or one that takes no weights file.
        DataError: if the weights are not here, damaged, or of another network; the hint says how to get them.
    """
    kind, _, rest = name.partition(":")
    table = PREFIXES if rest else NAMES
    if kind not in table:
        known = [*NAMES, *(f"{prefix}:NAME" for prefix in PREFIXES)]
        raise RecipeError(f"unknown encoder {name!r}", unknown_hint(name, known))
    try:
        settings = table[kind](rest, weights)
    except MedpeftError as error:
        message = error.message.removeprefix("backbone.name: ").replace("backbone.options", "options")
        hint = (error.hint or "").replace("--set backbone.weights=FILE.safetensors", "--encoder-weights FILE")
        raise type(error)(f"encoder {name!r}: {message}", hint.replace("backbone.", "") or None) from error
    network = settings.pop("network").eval().requires_grad_(False)
    sha256 = state_sha256(network)
    settings = {"weights": str(weights) if weights else "pretrained"} | settings
    # on a CPU, twice as fast for convolutions
    network = network.to(device, memory_format=torch.channels_last)
    return Encoder(name, network, sha256=sha256, device=device, **settings)


def _inception(_: str, weights: Path | None) -> dict[str, Any]:
    """Return torch-fidelity's Inception v3: pool features (2048) of the network of Heusel et al. 2017, and its resize."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise RecipeError("needs torch-fidelity, which is not installed", 'pip install "medpeft[fid]"') from error
    if weights is None:
        try:
            tensors = torch.hub.load_state_dict_from_url(
                INCEPTION, map_location="cpu", weights_only=True, progress=False
            )
        except Exception as error:
            raise DataError(
                f"the weights cannot be fetched: {first_line(error)}",
                f"fetch {INCEPTION} where there is a network, then --encoder-weights FILE",
            ) from error
    else:
        tensors = read_weights(weights)
    file = io.BytesIO()  # the extractor insists on reading its weights itself, and reads pickles: these are tensors
    torch.save(tensors, file)
    file.seek(0)
    try:
        extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=file)
    except RuntimeError as error:
        raise DataError(f"{weights}: weights of another network", f"wanted the file of {INCEPTION}") from error
    # its own forward is this sequence behind a resize that takes bytes only; the last child is the classifier
    network = nn.Sequential(*list(extractor.children())[:-1], nn.Flatten())
    half = (128 / 255,) * 3
    return {
        "network": network, "size": 299, "mean": half, "std": half, "weights": str(weights or INCEPTION),
        "resize": tensorflow_resize, "filter": "bilinear (TensorFlow 1)", "antialias": False,
    }  # fmt: skip


def _inception_clean(_: str, weights: Path | None) -> dict[str, Any]:
    """Return the same network behind clean-fid's resize."""
    changed = {"resize": clean_resize, "filter": "bicubic (Pillow, float)", "antialias": True}
    return _inception("", weights) | changed


class _XRay(nn.Module):
    """DenseNet-121 of torchxrayvision: grey in, spatial mean of the last feature maps (1024) before their ReLU."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.trunk = timm.create_model(
            "densenet121", in_chans=1, num_classes=0
        )  # the same tensors under the same names
        self.trunk.features.norm5.act = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images.mean(dim=1, keepdim=True))


def _xray(_: str, weights: Path | None) -> dict[str, Any]:
    network = _XRay()
    if weights is None:
        raise DataError(
            "its weights come as a pickle, which medpeft does not run; give them as --encoder-weights FILE, in a recipe as "
            "evaluate.encoder_weights",
            'once, with torchxrayvision: python -c "import torch, torchxrayvision as x; '
            f"torch.save(x.models.DenseNet(weights='{XRAY_WEIGHTS}').state_dict(), 'xrv.pt')\"",
        )
    tensors = {name: tensor for name, tensor in read_weights(weights).items() if name.startswith("features.")}
    try:
        network.trunk.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"{weights}: weights of another network: {str(error).splitlines()[-1].strip()}") from error
    # torchxrayvision reads values from -1024 to 1024
    return {"network": network, "size": 224, "mean": (0.5,) * 3, "std": (1 / 2048,) * 3}


def _timm(name: str, weights: Path | None) -> dict[str, Any]:
    """Return a timm network; `NAME,pad_type=same,mean=0.5` gives arguments of timm.create_model, and mean, std, size."""
    name, *words = name.split(",")
    options = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(
                f"{word!r} is no option", "wanted timm:NAME,KEY=VALUE,…, such as pad_type=same or mean=0.5"
            )
        options[key] = yaml.safe_load(value)
    own = {key: options.pop(key) for key in ("size", "mean", "std") if key in options}
    own |= {key: (float(own[key]),) * 3 for key in ("mean", "std") if key in own}
    spec = Backbone(name=name, weights=str(weights or "pretrained"), options=options, input=Input(**own))
    network = build_trunk(spec)
    read = input_spec(network, spec)
    return {"network": network, "size": read.size, "mean": read.mean, "std": read.std}


class _ImageTower(nn.Module):
    """The image half of a CLIP model: its joint embedding, not normalised."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)


def _open_clip(name: str, weights: Path | None) -> dict[str, Any]:
    from medpeft_cli.metrics.alignment import build_open_clip

    model: Any = build_open_clip(name, weights)
    read = model.visual.preprocess_cfg
    size = read["size"][0] if isinstance(read["size"], list | tuple) else read["size"]
    return {"network": _ImageTower(model), "size": size, "mean": tuple(read["mean"]), "std": tuple(read["std"])}


class _Pooled(nn.Module):
    """A transformers vision model: its pooled output, or the class token where it has none."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(pixel_values=images)
        pooled = output.get("pooler_output")
        return (output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)


def _hf(name: str, weights: Path | None) -> dict[str, Any]:
    if weights is not None:
        raise RecipeError("takes no weights file", "give the folder that holds them: hf:FOLDER")
    from transformers import AutoConfig, AutoModel
    from transformers.utils import cached_file

    try:
        config = AutoConfig.from_pretrained(name)
        model = AutoModel.from_pretrained(name)
        read = json.loads(Path(cached_file(name, "preprocessor_config.json")).read_text(encoding="utf-8"))
    except Exception as error:
        raise DataError(f"cannot be loaded: {first_line(error)}", f"{HUB_HINT}, or give a folder: hf:FOLDER") from error
    model = getattr(model, "vision_model", model)
    size = read.get("crop_size") or read.get("size") or getattr(config, "image_size", None)
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if not isinstance(size, int) or model.main_input_name != "pixel_values":
        raise RecipeError(
            "is no vision model with a known picture size", "such as hf:facebook/dinov2-base, hf:microsoft/rad-dino"
        )
    return {"network": _Pooled(model), "size": size, "mean": tuple(read["image_mean"]), "std": tuple(read["image_std"])}


def _demo(_: str, weights: Path | None) -> dict[str, Any]:
    """Return the bundled residual CNN (416), which was trained on other synthetic pictures than the twins."""
    return _timm("demo_resnet", weights) | {"weights": str(weights or "bundled")}


NAMES = {
    "inception": _inception,
    "inception-clean": _inception_clean,
    "xrv-densenet121": _xray,
    "demo": _demo,
}
PREFIXES = {"timm": _timm, "open_clip": _open_clip, "hf": _hf}
