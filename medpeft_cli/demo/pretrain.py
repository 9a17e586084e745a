"""Makes the bundled weights: `python -m medpeft_cli.demo.pretrain --network demo_vit --epochs 20`.

Trains a bundled backbone to name the class of the pictures of `source.py` and the colours of ground and drawing, scores
it on held-out ones, and stores it in float16 without its head. Without the colours as targets the backbone learns to
ignore colour, and what it then knows is of little use on skin. No twin picture is seen.
"""

import argparse
import time
from pathlib import Path

import torch

from medpeft_cli.demo import networks, source

# isort: split
from safetensors.torch import save_file
from timm.layers import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

HELD_OUT = 2880  # pictures, 20 a class
SHIFT = 6  # pixels
COLOUR_WEIGHT = 10.0  # of the squared error of the colours, 0–1, beside the cross-entropy
PATCHES_DROPPED, DROPPING_EPOCHS = 0.5, 0.8  # of the ViT's patches, in this share of the epochs: half the time a step


def pretrain(
    network: str, pictures: int, epochs: int, batch_size: int, lr: float, seed: int
) -> tuple[nn.Module, float]:
    """Train a bundled backbone on source pictures with AdamW and a one-cycle rate.

    Args:
        network: demo_vit or demo_resnet.
        pictures: number of training pictures.
        epochs: passes over them.
        batch_size: pictures a step.
        lr: peak learning rate.
        seed: of pictures, initial weights, order and augmentation.

    Returns:
        The model in eval mode, and its accuracy on held-out pictures, 0–1.
    """
    torch.manual_seed(seed)
    images, labels, colours = _source(pictures, seed)
    model = networks.NETWORKS[network](source.CLASSES + colours.shape[1])
    if isinstance(model, VisionTransformer):
        _whiten(model, images[:2000])
    model = model.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    steps = pictures // batch_size
    optimiser = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps, pct_start=0.1)
    held_out, true_labels, _ = _source(HELD_OUT, seed + 1)
    start = time.monotonic()
    for epoch in range(epochs):
        model.train()
        if isinstance(model, VisionTransformer):
            model.patch_drop = PatchDropout(PATCHES_DROPPED) if epoch < epochs * DROPPING_EPOCHS else nn.Identity()
        total = 0.0
        for batch in torch.randperm(pictures)[: steps * batch_size].split(batch_size):
            with torch.autocast("cpu", torch.bfloat16):
                logits, guessed = model(_normalise(_augment(images[batch]))).float().tensor_split([source.CLASSES], 1)
            loss = functional.cross_entropy(logits, labels[batch])
            loss = loss + COLOUR_WEIGHT * functional.mse_loss(guessed, colours[batch])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - start
        print(f"{network} epoch {epoch + 1}/{epochs} loss {total / steps:.3f} {seconds:.0f} s", flush=True)
    model.eval()
    return model, _accuracy(model, held_out, true_labels)


def save(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Store the backbone without its head, floating tensors in float16, atomically.

    Args:
        model: a bundled backbone with a head.
        path: safetensors file to write.
        metadata: text stored beside the tensors.
    """
    model.reset_classifier(0)
    tensors = {
        key: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for key, tensor in model.state_dict().items()
    }
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, metadata)
    temporary.chmod(0o644)  # safetensors writes files that others cannot read
    temporary.replace(path)


@torch.no_grad()
def _whiten(model: VisionTransformer, images: Tensor) -> None:
    """Start the patch embedding as the whitening of patches: the ViT learns next to nothing for 500 steps otherwise.

    Without it the mean colour of a patch, which says nothing of the class, outweighs all detail.
    """
    kernel = model.patch_embed.proj
    size = kernel.kernel_size[0]
    patches = functional.unfold(_normalise(images.float() / 255), size, stride=size)  # (B, 3 · size², N)
    patches = patches.transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))  # ascending
    width = model.embed_dim
    filters = 0.7 * (vectors[:, -width:] / (values[-width:] + 0.01).sqrt()).T  # (D, 3 · size²)
    kernel.weight.copy_(filters.reshape(kernel.weight.shape))
    kernel.bias.copy_(-filters @ patches.mean(0))
    nn.init.trunc_normal_(model.pos_embed, std=0.3)  # in proportion to the tokens


def _source(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Source pictures as tensors: uint8 (N, 3, 64, 64), int64 (N,) and float32 (N, 6)."""
    pictures, labels, colours = map(torch.from_numpy, source.make_source(count, seed))
    return pictures.permute(0, 3, 1, 2).contiguous(), labels, colours


def _augment(images: Tensor) -> Tensor:
    """Flip, transpose and shift: uint8 (B, 3, S, S) → float32 (B, 3, S, S) in 0–1."""
    n, _, size, _ = images.shape
    picture = torch.arange(n)[:, None, None]
    index = torch.arange(size).expand(n, size)
    axes = []
    for _ in range(2):
        flipped = torch.where(torch.rand(n, 1) < 0.5, size - 1 - index, index)
        shifted = flipped + torch.randint(-SHIFT, SHIFT + 1, (n, 1))
        axes.append((size - 1 - (size - 1 - shifted.abs()).abs()).abs())  # mirrored at the border
    images = images.permute(0, 2, 3, 1)[picture, axes[0][:, :, None], axes[1][:, None, :]].permute(0, 3, 1, 2)
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, images.transpose(2, 3), images).float() / 255


def _normalise(images: Tensor) -> Tensor:
    """Values in 0–1 → the input of a bundled backbone, float32 (B, 3, S, S)."""
    mean, std = (torch.tensor(networks.DEMO_INPUT[key])[:, None, None] for key in ("mean", "std"))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    hits = [
        (model(_normalise(x.float() / 255))[:, : source.CLASSES].argmax(1) == y).float().sum()
        for x, y in zip(images.split(256), labels.split(256), strict=True)
    ]
    return float(sum(hits) / len(labels))


def main() -> None:
    """Pre-train one backbone and write its weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(networks.NETWORKS), required=True)
    parser.add_argument("--pictures", type=int, default=43200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=networks.WEIGHTS)
    options = vars(parser.parse_args())
    folder = options.pop("output")
    model, accuracy = pretrain(**options)
    settings = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in options.items())
    metadata = {
        "what": f"{options['network']}, pre-trained on formula-driven pictures, float16, without head",
        "script": f"python -m medpeft_cli.demo.pretrain {settings}",
        "source_accuracy": f"{accuracy:.4f} on {HELD_OUT} held-out pictures of {source.CLASSES} classes",
    }
    save(model, folder / f"{options['network']}.safetensors", metadata)
    print(metadata)


if __name__ == "__main__":
    main()
