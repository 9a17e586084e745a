import json
import re

import numpy as np
import pytest
import torch

from medpeft_cli import compat  # noqa: F401  (before open_clip)

# isort: split
import open_clip
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from medpeft_cli.demo import networks, pipeline, pretrain_clip, pretrain_pipeline, scenes, twins

ENTRIES = list(twins.entries("mimic_cxr"))
REPORTS = sorted({twins.describe("mimic_cxr", entry) for entry in ENTRIES})


@pytest.fixture(scope="module")
def bundle():
    found = StableDiffusionPipeline.from_pretrained(pipeline.DEMO_SD, dtype=torch.float32)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def judge():
    name = f"local-dir:{pretrain_clip.DEMO_CLIP}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


def test_all_bundled_weights_fit_into_twenty_megabytes():
    files = list(networks.WEIGHTS.rglob("*.safetensors"))
    assert len(files) == 6
    assert sum(path.stat().st_size for path in files) <= 20e6


def test_the_folder_is_a_diffusers_pipeline_of_the_real_classes():
    parts = json.loads((pipeline.DEMO_SD / "model_index.json").read_text())
    assert parts["_class_name"] == "StableDiffusionPipeline"
    named = {name: parts[name][1] for name in ("vae", "unet", "text_encoder", "tokenizer", "scheduler")}
    assert named == {
        "vae": "AutoencoderKL",
        "unet": "UNet2DConditionModel",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "scheduler": "DDIMScheduler",
    }


@pytest.mark.parametrize(
    "pattern",
    [
        r"attentions\.", r"\.attn1\.to_q\.weight", r"\.attn2\.to_k\.weight", r"\.attn2\.to_v\.weight", r"to_out\.0\.bias",
        r"\.ff\.net\.", r"\.norm1\.", r"\.norm\.weight", r"conv_norm_out\.weight", r"time_embedding\.linear_1\.bias",
        r"time_emb_proj", r"proj_in\.weight", r"mid_block\.attentions\.0", r"downsamplers", r"conv_shortcut", r"\.bias$",
    ],
)  # fmt: skip
def test_every_rule_finds_its_targets_in_the_unet(pattern):
    config = UNet2DConditionModel.load_config(pipeline.DEMO_SD / "unet")
    with torch.device("meta"):
        names = [name for name, _ in UNet2DConditionModel.from_config(config).named_parameters()]
    assert any(re.search(pattern, name) for name in names)


def test_the_builders_are_what_is_bundled(bundle):
    for built, stored in (
        (pipeline.demo_vae(), bundle.vae),
        (pipeline.demo_unet(), bundle.unet),
        (pipeline.demo_text_encoder(len(bundle.tokenizer)), bundle.text_encoder),
    ):
        assert {k: v.shape for k, v in built.state_dict().items()} == {
            k: v.shape for k, v in stored.state_dict().items()
        }
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in stored.parameters())
    built, stored = pipeline.demo_scheduler().config, bundle.scheduler.config
    assert {key: stored[key] for key in built if key[0] != "_"} == {key: built[key] for key in built if key[0] != "_"}


def test_standardised_latents_draw_the_same_picture():
    torch.manual_seed(0)
    vae, images = pipeline.demo_vae().eval(), torch.randint(0, 256, (8, 64, 64), dtype=torch.uint8)
    inputs = (images.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        before = vae.encode(inputs).latent_dist
        drawn = vae.decode(before.mode()).sample
        after = pretrain_pipeline.standardise(vae, images).encode(inputs).latent_dist
        torch.testing.assert_close(vae.decode(after.mode()).sample, drawn, rtol=1e-3, atol=1e-4)
    scaled = after.mode() * vae.config.scaling_factor
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)
    torch.testing.assert_close((after.std / before.std).std((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-3)


def test_it_draws_the_same_picture_from_the_same_noise(bundle):
    first, second = (
        bundle("Large left pleural effusion.", num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="np").images
        for _ in range(2)
    )  # fmt: skip
    assert first.shape == (1, 64, 64, 3) and first.std() > 0.01
    np.testing.assert_array_equal(first, second)


def test_the_vae_shows_radiographs_that_it_has_not_seen(bundle):
    pictures = torch.from_numpy(np.stack([twins.draw("mimic_cxr", entry) for entry in ENTRIES[::40]]))
    inputs = (pictures.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        latents = bundle.vae.encode(inputs).latent_dist.mode()
        error = bundle.vae.decode(latents).sample - inputs
    assert 10 * torch.log10(4 / error.square().mean()) > 28  # dB
    deviations = (latents * bundle.vae.config.scaling_factor).std((0, 2, 3))  # noise of deviation 1 is added to them
    assert bundle.vae.config.scaling_factor == 0.18215 and ((deviations > 0.6) & (deviations < 1.4)).all()


def test_the_unet_uses_the_caption(bundle):
    """The noise is predicted better with the right caption than with that of another picture."""
    pictures, captions = scenes.make_scenes(96, seed=12345)
    latents, _ = pretrain_pipeline._latents(bundle.vae, torch.from_numpy(pictures))
    latents = latents * bundle.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    times = torch.full((96,), 700)
    noisy, error = bundle.scheduler.add_noise(latents, noise, times), {}
    for name, texts in (("right", captions), ("wrong", captions[1:] + captions[:1])):
        with torch.inference_mode():
            states = bundle.text_encoder(pretrain_pipeline._tokens(bundle.tokenizer, texts)).last_hidden_state
            error[name] = (bundle.unet(noisy, times, states).sample - noise).square().mean((1, 2, 3))
    assert (error["right"] < error["wrong"]).float().mean() > 0.8


@pytest.mark.parametrize("folder", [pipeline.DEMO_SD / "tokenizer", pretrain_clip.DEMO_CLIP])
def test_every_word_of_a_report_is_one_token(folder):
    tokenizer = pipeline.CLIPTokenizer.from_pretrained(folder)
    captions = scenes.make_scenes(300, seed=5)[1]
    for text in REPORTS + captions:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)[1:-1]
        assert pieces == [piece + "</w>" for piece in re.findall(r"\w+|[.,]", text.lower())]
    assert max(len(tokenizer(text).input_ids) for text in REPORTS) <= pipeline.TEXT_LENGTH


def test_other_words_are_spelt_and_come_back(bundle):
    for text in ("ground-glass opacités, 12 mm", "covid-19 ≥ 3 días"):
        ids = bundle.tokenizer(text).input_ids
        back = bundle.tokenizer.decode(ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.replace(" ", "")


def test_the_judge_prefers_the_right_report(judge):
    """On radiographs that it has not seen, beside the report of another one."""
    model, preprocess, tokenizer = judge
    shown = ENTRIES[::13]
    texts = [twins.describe("mimic_cxr", entry) for entry in shown]
    rng = np.random.default_rng(0)
    wrong = [rng.choice([text for text in REPORTS if text != right]) for right in texts]
    pictures = torch.stack([preprocess(Image.fromarray(twins.draw("mimic_cxr", entry))) for entry in shown])
    with torch.inference_mode():
        seen = model.encode_image(pictures, normalize=True)
        scores = [(seen * model.encode_text(tokenizer(read), normalize=True)).sum(1) for read in (texts, wrong)]
    assert (scores[0] > scores[1]).float().mean() > 0.85
    assert scores[0].mean() > scores[1].mean() + 0.2


def test_the_judge_tells_radiographs_from_scenes(judge):
    model, preprocess, tokenizer = judge
    radiographs = [twins.draw("mimic_cxr", entry) for entry in ENTRIES[::40]]
    drawn = scenes.make_scenes(len(radiographs), seed=4242)[0]
    texts = tokenizer([twins.describe("mimic_cxr", entry) for entry in ENTRIES[::40]])
    with torch.inference_mode():
        read = model.encode_text(texts, normalize=True)
        scores = [
            (model.encode_image(torch.stack([preprocess(Image.fromarray(p)) for p in pictures]), normalize=True) * read).sum(1)
            for pictures in (radiographs, drawn)
        ]  # fmt: skip
    assert scores[0].mean() > scores[1].mean() + 0.2


def test_the_encoder_of_the_demo_tells_twins_from_scenes_and_from_blurred_twins():
    encoder = networks.demo_encoder()
    assert not encoder.training
    with torch.inference_mode():
        assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, 416)


def test_scenes_are_decided_by_their_seed_and_say_which_side():
    pictures, captions = scenes.make_scenes(400, seed=1)
    again = scenes.make_scenes(400, seed=1)
    np.testing.assert_array_equal(pictures, again[0])
    assert captions == again[1]
    assert (pictures != scenes.make_scenes(400, seed=2)[0]).any()
    change = {"left": [], "right": []}
    for picture, caption in zip(pictures.astype(float), captions, strict=True):
        for side in re.findall(r"Large (left|right) (?:bright level|pleural effusion)", caption):
            change[side].append(picture[32:, 32:].mean() - picture[32:, :32].mean())
    assert min(map(len, change.values())) > 3
    assert np.median(change["left"]) > 20 and np.median(change["right"]) < -20  # patient's left: right in the picture


def test_the_scripts_write_what_loads(tmp_path):
    vae = pretrain_pipeline.train_vae(2, 32, tmp_path / "sd/vae")
    assert AutoencoderKL.from_pretrained(tmp_path / "sd/vae").config.scaling_factor == vae.config.scaling_factor
    pretrain_pipeline.train_unet(vae, 2, 32, tmp_path / "sd")
    written = StableDiffusionPipeline.from_pretrained(tmp_path / "sd", dtype=torch.float32)
    pretrain_clip.train_clip(tmp_path / "clip", written.tokenizer, vae, 2, 30, batch_size=8)
    open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
