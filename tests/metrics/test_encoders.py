"""Feature networks: what they compute on a picture, and what is said where one is not here."""

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from medpeft_cli import compat  # noqa: F401

# isort: split
import timm

from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.metrics.encoders import load_encoder
from medpeft_cli.metrics.features import features_of
from medpeft_cli.metrics.pictures import folder_pictures
from medpeft_cli.metrics.resize import clean_resize
from tests.metrics.pictures_on_disk import write_pictures

CPU = torch.device("cpu")


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_demo_encoder_is_the_bundled_network_on_the_centred_square():
    encoder = load_encoder("demo", CPU)
    wide = picture(64, 80)
    square = torch.from_numpy(wide[:, 8:72].astype(np.float32)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = encoder.network((square - 0.5) / 0.25)
    assert torch.allclose(encoder.features([wide]), expected, atol=1e-5)
    assert encoder.features([wide, picture(90, 70)]).shape == (2, 416)
    assert encoder.protocol()["weights"] == "bundled"


def test_the_resize_is_that_of_clean_fid():
    """Per channel, Pillow's bicubic filter on floats, clipped; written as clean-fid's make_resizer documents it."""
    pixels = picture(50, 40)
    channels = [Image.fromarray(pixels[:, :, c].astype(np.float32)).resize((16, 16), Image.BICUBIC) for c in range(3)]
    expected = np.stack([np.asarray(channel).clip(0, 255) for channel in channels], axis=2)
    assert np.array_equal(clean_resize(pixels, 16), expected)
    assert clean_resize(pixels[:, :, 0], 16).shape == (16, 16)
    edge = np.zeros((8, 8), np.uint8)
    edge[:, 4:] = 255
    assert clean_resize(edge, 32).max() == 255  # bicubic overshoots without the clip


def test_grey_and_its_three_equal_channels_have_the_same_features():
    encoder = load_encoder("demo", CPU)
    grey = picture(64, 64)[:, :, 0]
    assert torch.equal(*(encoder.features([each]) for each in (grey, np.repeat(grey[:, :, None], 3, axis=2))))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.safetensors"
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), path)
    return path


def test_a_timm_encoder_takes_a_file_and_options(weights):
    plain = load_encoder("timm:mobilenetv3_small_050", CPU, weights)
    own = load_encoder("timm:mobilenetv3_small_050,mean=0.5,std=0.25,size=96,pad_type=same", CPU, weights)
    assert plain.sha256 == own.sha256
    assert (plain.size, own.size) == (224, 96)
    assert (own.mean, own.std) == ((0.5,) * 3, (0.25,) * 3)
    assert own.features([picture(100, 100)]).shape == (1, 1024)


def test_xrv_densenet_reads_grey_from_minus_to_plus_1024_and_takes_the_mean_before_the_relu(tmp_path):
    with torch.device("meta"):
        shapes = timm.create_model("densenet121", in_chans=1, num_classes=18).state_dict()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.rand(each.shape, generator=generator) - 0.5) / each.shape[1:].numel() ** 0.5
        for name, each in shapes.items()
    }
    tensors |= {name: each + 1 for name, each in tensors.items() if name.endswith("running_var")}
    torch.save(tensors | {"op_threshs": torch.zeros(18)}, tmp_path / "xrv.pt")
    encoder = load_encoder("xrv-densenet121", CPU, tmp_path / "xrv.pt")
    grey = picture(224, 224)[:, :, 0]
    with torch.no_grad():
        maps = encoder.network.trunk.features(torch.from_numpy((2 * (grey / 255.0) - 1) * 1024).float()[None, None])
    assert torch.allclose(encoder.features([grey]), maps.mean((2, 3)), rtol=1e-3)
    assert encoder.features([grey]).shape == (1, 1024)
    assert (encoder.features([grey]) < 0).any()


def test_a_transformers_encoder_is_its_pooled_output(tmp_path):
    from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**shape)).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.2] * 3).save_pretrained(
        tmp_path
    )
    encoder = load_encoder(f"hf:{tmp_path}", CPU)
    pixels = picture(28, 28)
    with torch.no_grad():
        batch = (torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None].float() - 0.5) / 0.2
        expected = model(pixel_values=batch).pooler_output
    assert torch.allclose(encoder.features([pixels]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "file", "error", "said", "hint"),
    [
        ("inceptoin", None, RecipeError, "unknown encoder 'inceptoin'", "did you mean 'inception'"),
        ("xrv-densenet121", None, DataError, "come as a pickle", "state_dict"),
        (
            "timm:resnet18",
            None,
            DataError,
            "pre-trained weights of 'resnet18' cannot be loaded",
            "--encoder-weights FILE",
        ),
        ("timm:resnet81", None, RecipeError, "encoder 'timm:resnet81': timm has no model", "did you mean 'resnet18'"),
        ("timm:resnet18,pad", None, RecipeError, "'pad' is no option", "KEY=VALUE"),
        ("hf:nobody/nothing", None, DataError, "'hf:nobody/nothing': cannot be loaded", "hf:FOLDER"),
        ("open_clip:ViT-B-32@openai", None, DataError, "cannot be loaded", "local-dir:FOLDER"),
        ("open_clip:ViT-B-32", None, RecipeError, "which weights", "ViT-B-32@TAG with one of .*openai"),
        ("open_clip:ViT-B-23@openai", None, RecipeError, "unknown to open_clip", "did you mean 'ViT-B-32'"),
        ("timm:resnet18", "no.safetensors", DataError, "no such weights file", ""),
    ],
)
def test_an_encoder_that_is_not_here_says_how_to_get_it(tmp_path, name, file, error, said, hint):
    with pytest.raises(error, match=said) as caught:
        load_encoder(name, CPU, file and tmp_path / file)
    assert re.search(hint, caught.value.hint or "")


def test_inception_is_torch_fidelitys_network_and_resize(tmp_path, monkeypatch):
    extractors = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save({}, tmp_path / "none.pt")
    with monkeypatch.context() as patch:  # it cannot be built without a file of its weights
        patch.setattr(extractors.FeatureExtractorInceptionV3, "load_state_dict", lambda self, tensors: None)
        torch.manual_seed(0)
        reference = extractors.FeatureExtractorInceptionV3("x", ["2048"], tmp_path / "none.pt")
    torch.save(reference.state_dict(), tmp_path / "inception.pt")
    pixels = picture(120, 120)
    expected = reference(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
    encoder = load_encoder("inception", CPU, tmp_path / "inception.pt")
    tolerance = 1e-4 * float(expected.max())  # random weights: the features are tiny
    assert torch.allclose(encoder.features([pixels]), expected, rtol=0, atol=tolerance)
    clean = load_encoder("inception-clean", CPU, tmp_path / "inception.pt")
    assert (encoder.antialias, clean.antialias) == (False, True)
    assert encoder.sha256 == clean.sha256
    assert not torch.allclose(clean.features([pixels]), expected, rtol=0, atol=tolerance)


def test_inception_without_torch_fidelity_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(RecipeError, match="needs torch-fidelity") as caught:
        load_encoder("inception", CPU)
    assert "medpeft[fid]" in caught.value.hint


def test_kept_features_equal_computed_ones_and_belong_to_content(tmp_path):
    write_pictures(tmp_path / "in", 5)
    encoder = load_encoder("demo", CPU)
    pictures = folder_pictures([tmp_path / "in"])
    computed = features_of(pictures, encoder)
    assert np.array_equal(features_of(pictures, encoder, tmp_path / "cache"), computed)
    (kept,) = (tmp_path / "cache").glob("*.safetensors")
    (tmp_path / "in" / "000000.png").rename(tmp_path / "in" / "renamed.png")
    before = kept.stat().st_mtime_ns
    assert np.array_equal(features_of(folder_pictures([tmp_path / "in"]), encoder, tmp_path / "cache"), computed)
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"damaged")
    pictures = folder_pictures([tmp_path / "in"])
    assert np.array_equal(features_of(pictures, encoder, tmp_path / "cache"), computed)
    write_pictures(tmp_path / "in", 1, seed=4)
    assert len(features_of(folder_pictures([tmp_path / "in"]), encoder, tmp_path / "cache")) == 6
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2


def test_features_that_are_not_finite_name_the_picture(tmp_path, weights):
    (path,) = write_pictures(tmp_path, 1)
    encoder = load_encoder("timm:mobilenetv3_small_050", CPU, weights)
    next(encoder.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(DataError, match=f"{path}: its features are not finite"):
        features_of(folder_pictures([tmp_path]), encoder)
