import pytest

from medpeft_cli.errors import RecipeError
from medpeft_cli.models import sites
from tests.methods.tiny import build, tiny


def test_families():
    assert sites.family_of(tiny("vit")) == "vit" and sites.family_of(tiny("cnn")) == "cnn"
    with pytest.raises(RecipeError, match="neither attention blocks nor convolutions"):
        sites.family_of(build("mixer_s32_224"))


def test_a_backbone_without_classifier_is_refused():
    model = tiny("vit")
    model.reset_classifier(0)
    with pytest.raises(RecipeError, match="no classifier to train"):
        sites.head_names(model)


def test_heads_inside_a_module_are_found():
    assert sites.head_names(build("test_convnext")) == ["head.fc"]


def test_parts_of_a_name_are_not_the_name():
    assert sites.in_modules("head.weight", ["head"]) and not sites.in_modules("head_dist.weight", ["head"])


@pytest.mark.parametrize(
    ("name", "path", "axis"),
    [
        ("test_convnext", "stem.1", 1),
        ("test_convnext", "stages.0.blocks.0.norm", -1),
        ("test_efficientnet_gn", "bn1", 1),
        ("test_efficientnet_ln", "bn1", 1),
        ("test_vit", "norm", -1),
    ],
)
def test_channel_axis_of_norms(name, path, axis):
    assert sites.channel_axis(build(name).get_submodule(path)) == axis
