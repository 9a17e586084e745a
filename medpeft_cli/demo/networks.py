"""The bundled backbones: a ViT and a residual CNN of about a million parameters each, for pictures of 64 pixels."""

from pathlib import Path
from typing import Any

from medpeft_cli import compat  # noqa: F401  (before timm)

# isort: split
from safetensors.torch import load_file
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from medpeft_cli.errors import DataError

DEMO_SIZE = 64
DEMO_INPUT: dict[str, Any] = {
    "input_size": (3, DEMO_SIZE, DEMO_SIZE),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}
"""The data configuration the weights were trained with, in timm's words; mean and std of values in 0–1."""

WEIGHTS = Path(__file__).parent / "weights"


def demo_vit(num_classes: int, **options: Any) -> VisionTransformer:
    """Build the bundled ViT with random weights: 6 blocks of width 128, 4 heads, patches of 8 pixels.

    Args:
        num_classes: K, outputs of the head; 0 = no head.
        options: further arguments of timm's VisionTransformer.

    Shape:
        float32 (B, 3, 64, 64), normalised by DEMO_INPUT → (B, K)
    """
    shape = {"img_size": DEMO_SIZE, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4}
    return _configured(VisionTransformer(num_classes=num_classes, **(shape | options)))


def demo_resnet(num_classes: int, **options: Any) -> ResNet:
    """Build the bundled residual CNN with random weights: 2 bottleneck blocks in each of 4 stages, deep stem.

    Args:
        num_classes: K, outputs of the head; 0 = no head.
        options: further arguments of timm's ResNet.

    Shape:
        float32 (B, 3, 64, 64), normalised by DEMO_INPUT → (B, K)
    """
    shape = {"layers": (2, 2, 2, 2), "channels": (32, 56, 80, 104), "stem_type": "deep", "stem_width": 16}
    return _configured(ResNet(Bottleneck, num_classes=num_classes, **(shape | options)))


NETWORKS = {"demo_vit": demo_vit, "demo_resnet": demo_resnet}


def demo_encoder() -> ResNet:
    """Build the encoder of the demo's FID: demo_resnet with its bundled weights, in eval mode.

    Shape:
        float32 (B, 3, 64, 64), normalised by DEMO_INPUT → (B, 416)

    Raises:
        DataError: if the weights are missing or do not fit.
    """
    model = demo_resnet(0)
    load_bundled(model, "demo_resnet")
    return model.eval()


def load_bundled(model: nn.Module, name: str) -> None:
    """Load the pre-trained weights of a bundled backbone, stored in float16, into float32 tensors.

    Args:
        model: what demo_vit or demo_resnet returned for num_classes=0.
        name: demo_vit or demo_resnet.

    Raises:
        DataError: if the weights are missing, as in an incomplete installation, or do not fit, tensor for tensor.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise DataError(f"{path}: bundled weights are missing", "install medpeft again")
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise DataError(f"{path}: bundled weights do not fit: {problem}", "check backbone.options") from None


def _configured(model: nn.Module) -> Any:
    model.pretrained_cfg = model.default_cfg = DEMO_INPUT | {"num_classes": 0, "architecture": type(model).__name__}
    return model
