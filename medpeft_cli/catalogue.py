"""The rows of `medpeft list`, without torch."""

from pathlib import Path
from typing import Any

from medpeft_cli.errors import RecipeError

BACKBONES = [  # the paper's, and one of each further family that the tests cover
    ("resnet50.a1_in1k", "cnn", "the paper's CNN (Table 2)"),
    ("vit_base_patch16_224.augreg_in21k", "vit", "the paper's ViT-B (Table 3)"),
    ("vit_large_patch16_224.augreg_in21k", "vit", "the paper's ViT-L (Table 3)"),
    ("vit_huge_patch14_224.orig_in21k", "vit", "the paper's ViT-H (Table 3)"),
    ("vit_base_patch16_224.mae", "vit", "the paper's MAE encoder (Table 5)"),
    ("vit_base_patch16_clip_224.openai", "vit", "the paper's CLIP encoder (Table 5)"),
    ("vit_base_patch14_dinov2.lvd142m", "vit", "DINOv2; reads 518 px"),
    ("deit3_base_patch16_224.fb_in22k_ft_in1k", "vit", "DeiT III"),
    ("swin_base_patch4_window7_224.ms_in22k", "vit", "Swin"),
    ("resnext50_32x4d.a1_in1k", "cnn", "ResNeXt"),
    ("densenet121.ra_in1k", "cnn", "DenseNet"),
    ("mobilenetv2_100.ra_in1k", "cnn", "MobileNetV2"),
    ("efficientnet_b0.ra_in1k", "cnn", "EfficientNet"),
    ("convnext_tiny.fb_in22k", "cnn", "ConvNeXt"),
    ("demo_vit", "vit", "bundled, 64 px, for --demo"),
    ("demo_resnet", "cnn", "bundled, 64 px, for --demo"),
]

ENCODERS = [
    (
        "inception",
        "Inception v3 of torch-fidelity (2048), its resize: FID as published",
        "extra fid; from GitHub, or a file",
    ),
    ("inception-clean", "the same network behind clean-fid's antialiased resize", "extra fid; from GitHub, or a file"),
    ("xrv-densenet121", "DenseNet-121 of torchxrayvision for chest X-rays, mimic_ch (1024)", "a file"),
    (
        "timm:NAME",
        "any timm network; timm:NAME,KEY=VALUE,… sets pad_type, mean, std, size, …",
        "Hugging Face hub, or a file",
    ),
    ("open_clip:NAME@TAG", "image half of a CLIP model, such as ViT-B-32@openai", "by open_clip, or a file"),
    (
        "open_clip:hf-hub:ORG/NAME",
        "such as microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "Hugging Face hub",
    ),
    ("open_clip:local-dir:FOLDER", "a CLIP model in a folder with open_clip_config.json", "the folder"),
    (
        "hf:ORG/NAME",
        "any transformers vision model: microsoft/rad-dino, facebook/dinov2-base; or a folder",
        "Hugging Face hub",
    ),
    ("demo", "bundled, 64 px, for --demo", "bundled"),
]


def encoder_rows() -> list[dict[str, Any]]:
    """Return one row per kind of feature network."""
    return [{"name": name, "network": network, "weights": weights} for name, network, weights in ENCODERS]


def method_rows() -> list[dict[str, Any]]:
    """Return one row per PEFT method and baseline."""
    from medpeft_cli.methods import METHODS

    return [
        {
            "name": method.name,
            "families": list(method.titles),
            "titles": dict(method.titles),
            "paper": "baseline" if method.baseline else ", ".join(method.in_paper),
            "merges": "yes" if method.mergeable else "no",
            "hyper-parameters": [
                f"{name}={field.default}"
                for name, field in method.config.model_fields.items()
                if not field.is_required()
            ],
            "reference": method.reference,
        }
        for method in METHODS.values()
    ]


def dataset_rows() -> list[dict[str, Any]]:
    """Return one row per dataset card."""
    from medpeft_cli.data.card import card_names, load_card

    keys = ("name", "title", "modality", "classes", "access", "licence", "url")
    return [{key: getattr(card, key) for key in keys} for card in map(load_card, card_names())]


def backbone_rows(text: str | None) -> list[dict[str, Any]]:
    """Return the listed backbones, or every pre-trained timm name that contains `text` (imports timm)."""
    if text is None:
        return [{"name": name, "family": family, "note": note} for name, family, note in BACKBONES]
    from medpeft_cli import compat  # noqa: F401

    # isort: split
    import timm

    names = timm.list_models(f"*{text}*", pretrained=True)
    if not names:
        raise RecipeError(
            f"timm has no pre-trained model whose name contains {text!r}", "try a shorter part of the name"
        )
    return [{"name": name, "family": None, "note": "timm"} for name in names]


def recipe_rows(folder: Path) -> list[dict[str, Any]]:
    """Return one row per recipe directly in a folder.

    Raises:
        RecipeError: if the folder is missing, or a recipe in it is wrong.
    """
    from medpeft_cli.recipe.load import load_recipe

    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder", "give the folder of your recipes: medpeft list recipes DIR")
    rows = []
    for path in sorted(folder.glob("*.yaml")):
        recipe = load_recipe(path).recipe
        rows.append({
            "recipe": str(path),
            "dataset": recipe.data.card,
            "backbone": recipe.pretrained_name,
            "method": recipe.method.name,
        })  # fmt: skip
    return rows
