"""The cache gives what the encoders would have given."""

import numpy as np
import pytest
import torch

from medpeft_cli.data.images import ImageStore, eval_image
from medpeft_cli.engine import latents
from medpeft_cli.engine.latents import encode_dataset, without_encoders
from medpeft_cli.engine.rows import cache_folder


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def made(request, assembly_of):
    assembly = assembly_of(pipeline=request.param)
    indices = assembly.manifest.indices("train")
    return assembly, indices, encode_dataset(assembly, indices)


def moments(assembly, index):
    """Mean and deviation of a picture's latents, straight from the VAE."""
    pixels = eval_image(ImageStore(assembly.manifest).stored(index), assembly.input)
    with torch.inference_mode():
        posterior = assembly.pretrained.vae.encode(torch.from_numpy(pixels.copy())[None] / 127.5 - 1).latent_dist
    return posterior.mean, posterior.std


def test_latents_are_the_posteriors_mean_or_a_draw_from_it(made):
    assembly, indices, encoded = made
    noise = torch.randn(2, *encoded.shape, generator=torch.Generator().manual_seed(0))
    for place, index in enumerate(indices[[0, -1]]):
        mean, std = moments(assembly, index)
        scale = assembly.pretrained.vae.config.scaling_factor
        rounding = {"rtol": 2e-3, "atol": 2e-3 * scale}  # float16 on disk
        torch.testing.assert_close(encoded.latents([index], None), mean * scale, **rounding)
        drawn = encoded.latents(indices[[0, -1]], noise)[place]
        torch.testing.assert_close(drawn, ((mean + std * noise[place]) * scale)[0], **rounding)


def test_prompts_are_those_of_the_pipeline_and_dropped_ones_those_of_no_prompt(made):
    assembly, indices, encoded = made
    pair = indices[[0, 1]]
    encoder = latents.PromptEncoder(assembly.pretrained, torch.device("cpu"))
    expected, empty = encoder([assembly.manifest.texts[index] for index in pair]), encoder.empty()
    found = encoded.prompts(pair, np.array([False, True]))
    torch.testing.assert_close(found.tokens[0], expected.tokens[0], rtol=2e-3, atol=2e-3)
    assert torch.equal(found.tokens[1], empty.tokens[0])
    assert (found.pooled is None) == (assembly.pretrained.kind == "sd1")
    if found.pooled is not None:
        torch.testing.assert_close(found.pooled[0], expected.pooled[0], rtol=2e-3, atol=2e-3)
        assert not found.pooled[1].any()  # XL's pipeline asks for zeros
        assert not found.tokens[1].any()


def test_nothing_is_computed_twice(made, assembly_of):
    assembly, indices, _ = made
    again = assembly_of(pipeline=assembly.pretrained.title)

    def refuse(*_, **__):
        raise AssertionError("computed again")

    again.pretrained.vae.encode = refuse
    encode_dataset(again, indices)


def test_other_pictures_are_added_and_another_size_is_another_cache(made, assembly_of):
    assembly, indices, _ = made
    more = np.concatenate([indices, assembly.manifest.indices("val")])
    encode_dataset(assembly, more)
    folders = sorted(cache_folder(assembly.manifest.root).glob("moments-*-16"))
    encode_dataset(assembly_of("pipeline.size=24", pipeline=assembly.pretrained.title), indices[:2])
    assert sorted(cache_folder(assembly.manifest.root).glob("moments-*-16")) == folders
    assert list(cache_folder(assembly.manifest.root).glob("moments-*-24"))


def test_the_encoders_go_and_the_unet_stays(made):
    assembly, _, _ = made
    bare = without_encoders(assembly).pretrained
    assert bare.vae is None and bare.text_encoders == [] == bare.tokenizers
    assert bare.unet is assembly.pretrained.unet


def test_texts_over_the_limit_are_counted(made):
    encoder = latents.PromptEncoder(made[0].pretrained, torch.device("cpu"))
    assert encoder.too_long(["x" * 75, "x" * 76, "a red square"]) == 1  # start and end are tokens, too
