"""CLIP score: open_clip's own cosine, its own context, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from medpeft_cli import compat  # noqa: F401

# isort: split
import open_clip

from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.metrics.alignment import clip_scores, load_clip
from medpeft_cli.metrics.encoders import load_encoder
from medpeft_cli.metrics.pictures import folder_pictures
from tests.metrics.pictures_on_disk import write_pictures
from tests.metrics.tiny_clip import CONTEXT, write_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_the_score_is_open_clips_own_cosine(tmp_path, name):
    prompts = ["no finding", "left pleural effusion"]
    write_pictures(tmp_path, 5, prompts=prompts)
    pictures = folder_pictures([tmp_path])
    scores, cut = clip_scores(load_clip(name, CPU), pictures, pictures.prompts)

    model, _, transform = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)
    for path, prompt, score in zip(pictures.names, pictures.prompts, scores, strict=True):
        with torch.no_grad():
            image = model.eval().encode_image(transform(Image.open(path))[None], normalize=True)
            text = model.encode_text(tokens([prompt]), normalize=True)
        assert score == pytest.approx(100 * float(image @ text.T), rel=1e-4)
    assert (scores.dtype, scores.shape, cut) == (np.float64, (5,), 0)
    assert scores.std() > 0


@pytest.mark.parametrize(("words", "cut"), [(CONTEXT - 2, 0), (CONTEXT - 1, 1), (CONTEXT, 1), (5 * CONTEXT, 1)])
def test_prompts_past_the_models_context_are_counted(tmp_path, name, words, cut):
    """Each word is a token; the start and the end marker are two more."""
    write_pictures(tmp_path, 2)
    clip = load_clip(name, CPU)
    assert clip.context == CONTEXT
    assert clip_scores(clip, folder_pictures([tmp_path]), ["a " * words, "short"])[1] == cut


def test_an_empty_prompt_is_refused(tmp_path, name):
    write_pictures(tmp_path, 2)
    with pytest.raises(DataError, match=r"empty prompt, as 1 of 2 pictures have"):
        clip_scores(load_clip(name, CPU), folder_pictures([tmp_path]), ["fine", " "])


def test_its_image_half_is_an_encoder(tmp_path, name):
    encoder = load_encoder(f"open_clip:{name}", CPU)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    model, _, transform = open_clip.create_model_and_transforms(name)
    with torch.no_grad():
        expected = model.eval().encode_image(transform(Image.fromarray(pixels))[None])
    assert torch.allclose(encoder.features([pixels]), expected, atol=1e-5)


def test_a_folder_without_weights_is_refused_and_not_random(tmp_path):
    name = write_clip(tmp_path / "clip")
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_clip(name, CPU)
    assert "open_clip_model.safetensors" in caught.value.hint


def test_unknown_models_and_folders(tmp_path):
    with pytest.raises(RecipeError, match="which weights"):
        load_clip("ViT-B-32", CPU)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_clip(f"local-dir:{tmp_path / 'nowhere'}", CPU)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_clip("hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", CPU)
