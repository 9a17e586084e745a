"""Backbones from the three sources, on small snapshots laid out as the hub's cache lays them out."""

import json

import pytest

from medpeft_cli import compat  # noqa: F401  must come before timm

# isort: split
import timm
import torch
from safetensors.torch import save_file

from medpeft_cli.data.images import InputSpec
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.models.backbones import build_backbone, read_weights, state_sha256
from medpeft_cli.recipe.schema import Backbone, Input


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(7)
    return timm.create_model("test_resnet", pretrained=False)


@pytest.fixture
def hub(tmp_path, monkeypatch, reference):
    """A Hugging Face cache that holds one model under timm/test_resnet.r160_in1k, and no network."""
    import huggingface_hub.constants as constants

    cache = tmp_path / "hub"
    repository = cache / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    save_file(reference.state_dict(), snapshot / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": reference.pretrained_cfg}
    (snapshot / "config.json").write_text(json.dumps(config, default=str))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(timm.models._hub, "get_cache_dir", lambda *a, **k: str(cache), raising=False)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(cache))
    return cache


def backbone_equals(built, reference):
    ours, theirs = built.model.state_dict(), reference.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs if not name.startswith("fc."))


def test_a_local_file_is_loaded_whole_with_a_new_head(tmp_path, reference):
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in reference.state_dict().items()}}, tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        built = build_backbone(Backbone(name="test_resnet", weights=str(tmp_path / file)), 3, seed=0)
        assert backbone_equals(built, reference)
        assert built.model.get_classifier().out_features == 3 and built.family == "cnn"


def test_the_head_depends_on_the_seed_and_the_backbone_does_not(tmp_path, reference):
    save_file(reference.state_dict(), tmp_path / "w.safetensors")
    spec = Backbone(name="test_resnet", weights=str(tmp_path / "w.safetensors"))
    a, again, b = (build_backbone(spec, 3, seed) for seed in (0, 0, 1))
    heads = [built.model.get_classifier().weight for built in (a, again, b)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert a.weights_sha256 == b.weights_sha256
    assert heads[0].std().item() == pytest.approx(0.01, rel=0.2)
    assert not a.model.get_classifier().bias.any()


def test_a_timm_tag_comes_from_the_cache_with_no_network(hub, reference):
    built = build_backbone(Backbone(name="test_resnet.r160_in1k"), 2, seed=0)
    assert backbone_equals(built, reference)


def test_a_hugging_face_id_comes_from_the_cache_with_no_network(hub, reference):
    built = build_backbone(Backbone(name="hf-hub:timm/test_resnet.r160_in1k"), 2, seed=0)
    assert backbone_equals(built, reference)


def test_what_is_not_in_the_cache_is_an_error_with_a_way_out(hub):
    with pytest.raises(DataError, match="pre-trained weights of 'test_vit.r160_in1k' cannot be loaded") as caught:
        build_backbone(Backbone(name="test_vit.r160_in1k"), 2, seed=0)
    assert "backbone.weights=FILE.safetensors" in caught.value.hint


def test_the_input_belongs_to_the_weights_unless_overridden():
    built = build_backbone(Backbone(name="test_resnet", weights="random"), 2, seed=0)
    config = timm.data.resolve_data_config(pretrained_cfg=built.model.pretrained_cfg)
    assert built.input == InputSpec(
        160, tuple(config["mean"]), tuple(config["std"]), config["interpolation"], config["crop_pct"]
    )
    own = Input(size=64, mean=(0.5, 0.5, 0.5), interpolation="lanczos")
    changed = build_backbone(Backbone(name="test_resnet", weights="random", input=own), 2, seed=0).input
    assert (changed.size, changed.mean, changed.std, changed.interpolation) == (
        64,
        (0.5,) * 3,
        built.input.std,
        "lanczos",
    )


def test_a_transformer_is_built_for_the_size_it_is_to_read():
    built = build_backbone(Backbone(name="test_vit", weights="random", input=Input(size=96)), 2, seed=0)
    assert built.model(torch.zeros(1, 3, 96, 96)).shape == (1, 2)


def test_a_missing_or_foreign_tensor_is_refused(tmp_path, reference):
    tensors = dict(reference.state_dict())
    tensors.pop("layer1.0.conv1.weight")
    save_file(tensors, tmp_path / "short.safetensors")
    with pytest.raises(DataError, match="1 tensors missing"):
        build_backbone(Backbone(name="test_resnet", weights=str(tmp_path / "short.safetensors")), 2, seed=0)
    save_file(dict(reference.state_dict()) | {"extra.weight": torch.zeros(1)}, tmp_path / "long.safetensors")
    with pytest.raises(DataError, match="1 unknown"):
        build_backbone(Backbone(name="test_resnet", weights=str(tmp_path / "long.safetensors")), 2, seed=0)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04."])
def test_damaged_files_are_refused_without_running_them(tmp_path, content):
    for name in ("w.safetensors", "w.pth"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            read_weights(tmp_path / name)


def test_unknown_names_and_options_are_recipe_errors():
    with pytest.raises(RecipeError, match="no model 'vit_bse_patch16_224'") as caught:
        build_backbone(Backbone(name="vit_bse_patch16_224"), 2, seed=0)
    assert "'vit_base_patch16_224'" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "weights", "options"),
    [
        ("test_resnet", "random", {"widht": 3}),
        ("test_vit", "pretrained", {"num_heads": 5}),
        ("demo_vit", "pretrained", {"foo": 1}),
        ("demo_resnet", "random", {"layers": 3}),
        ("mobilenetv2_035", "random", {"drop_rate": "x"}),  # accepted, and met in the forward pass
    ],
)
def test_options_that_the_network_does_not_take_are_recipe_errors(name, weights, options):
    with pytest.raises(RecipeError, match=f"backbone.options: {name} does not (take|compute with) them"):
        build_backbone(Backbone(name=name, weights=weights, options=options), 2, seed=0)


def test_the_hash_sees_every_bit_of_every_tensor(reference):
    before = state_sha256(reference)
    with torch.no_grad():
        reference.bn1.running_var[0] = torch.nextafter(reference.bn1.running_var[0], torch.tensor(9.0))
    assert state_sha256(reference) != before
