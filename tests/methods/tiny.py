"""Small backbones and a U-Net with weights away from their initial zeros, and method configurations that fit them."""

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import timm
import torch
from torch import Tensor, nn

from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted, adapt
from medpeft_cli.models import sites
from medpeft_cli.recipe.schema import Strict
from tests.toys import TOY_SIZE, toy_unet

SIZE = 32
TINY = {
    "vit": ("test_vit", {"img_size": SIZE, "depth": 2}),
    "cnn": ("test_resnet", {"channels": (16, 16, 24, 16)}),
}
SIZES = {"vit": SIZE, "cnn": SIZE, "unet": TOY_SIZE // 2}  # of a U-Net: its latents
SMALL = {
    "adaptformer": {"bottleneck": 5},
    "oft": {"block_size": 8},
    "vblora": {"vectors": 8, "vector_length": 16},
    "vera": {"rank": 16},
    "pvera": {"rank": 16},
    "waveft": {"frequencies": 64},
    "fourierft": {"frequencies": 64},
    "miss": {"rank": 8},
    "psoft": {"rank": 8},
    "shira": {"rank": 4},
    "c3a": {"block_size": 16},
    "road": {"group_size": 16},
}
CLASSES = 3


def build(name: str, **options) -> nn.Module:
    """Build a timm model without download; no parameter is zero, so that everything has a gradient."""
    torch.manual_seed(0)
    return with_noise(timm.create_model(name, pretrained=False, num_classes=CLASSES, **options))


def with_noise(model: nn.Module) -> nn.Module:
    """Move every parameter away from its initial value."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.05)
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(generator=noise)
    return model.eval()


def tiny(family: str) -> nn.Module:
    if family == "unet":
        torch.manual_seed(0)
        # attention in the middle block alone: each kind of layer is there, and the many cells stay quick
        return with_noise(toy_unet(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2))
    name, options = TINY[family]
    return build(name, **options)


def config_of(method: str, **parameters) -> Strict:
    return METHODS[method].config(**(SMALL.get(method, {}) | parameters))


def adapted(method: str, family: str, model: nn.Module | None = None, **parameters) -> Adapted:
    model = tiny(family) if model is None else model
    result = adapt(model, family, METHODS[method], config_of(method, **parameters))
    result.model.eval()
    return result


def perturb(trained: Adapted, seed: int = 0) -> None:
    """Move everything that is trained, as training would."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in trained.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.02)


def images(count: int = 2, size: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def outputs(model: nn.Module, count: int = 2, only: slice = slice(None)) -> Tensor:
    """Logits (B, K) of a backbone, or noise (B, 4, S, S) predicted by a U-Net, for always the same inputs."""
    family = "vit" if hasattr(model, "get_classifier") else "unet"
    inputs, options = sites.example_inputs(model, family, SIZES[family], count)
    output = model(*(tensor[only] for tensor in inputs), **options)
    return output[0] if isinstance(output, tuple) else output


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value of b."""
    return ((a - b).abs().max() / b.abs().max()).item()
