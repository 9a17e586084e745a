"""A picture is what diffusers makes of its prompt and seed, whatever is made beside it."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medpeft_cli.engine.sample import SCHEDULERS, Sampler, Settings, image_seed, scheduler_of
from medpeft_cli.models.diffusion import load_diffusion, pipeline_of
from medpeft_cli.recipe.schema import Sample, SchedulerName

SETTINGS = Settings(steps=4, guidance=3.0, scheduler=None, size=16)
PROMPTS = ["a red square", "a green square", "", "a blue square", "red"]
SEEDS = [image_seed(0, index, 0) for index in range(5)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def diffusion(request, captioned):
    return load_diffusion(str(captioned / request.param))


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_it_is_the_picture_of_diffusers_own_pipeline(diffusion, guidance):
    sampler = Sampler(diffusion, replace(SETTINGS, guidance=guidance), CPU, "float32")
    (ours,) = sampler(PROMPTS[:1], SEEDS[:1])
    pipeline = pipeline_of(
        replace(diffusion, scheduler=type(diffusion.scheduler).from_config(diffusion.scheduler.config))
    )
    theirs = pipeline(
        PROMPTS[0], generator=torch.Generator().manual_seed(SEEDS[0]), num_inference_steps=4, guidance_scale=guidance,
        height=16, width=16, output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(ours - (theirs * 255).round()).max() <= 1


def test_it_does_not_depend_on_the_pictures_beside_it(diffusion):
    sampler = Sampler(diffusion, SETTINGS, CPU, "float32")
    whole = sampler(PROMPTS, SEEDS)
    alone = np.concatenate([sampler([prompt], [seed]) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)])
    turned = sampler(PROMPTS[::-1], SEEDS[::-1])[::-1]
    assert np.array_equal(whole, turned)  # batches of one size: the same bits
    assert np.abs(whole.astype(int) - alone).max() <= 1  # other sizes: other orders of summing
    assert len({image.tobytes() for image in whole}) == 5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_makes_pictures_that_depend_on_their_own_seed_alone(captioned, name):
    sampler = Sampler(load_diffusion(str(captioned / "sd1")), replace(SETTINGS, scheduler=name), CPU, "float32")
    pair = sampler(PROMPTS[:2], SEEDS[:2])
    other = sampler([PROMPTS[0], PROMPTS[4]], [SEEDS[0], SEEDS[4]])
    assert np.array_equal(pair[0], other[0])
    assert not np.array_equal(pair[1], other[1])


@pytest.mark.parametrize("name", [None, *SCHEDULERS])
def test_every_scheduler_takes_every_number_of_steps_that_a_recipe_may_have(diffusion, name):
    Sampler(diffusion, replace(SETTINGS, scheduler=name, steps=1), CPU, "float32")(PROMPTS[:1], SEEDS[:1])
    scheduler, latents = scheduler_of(diffusion, name), torch.ones(1, 4, 2, 2)
    scheduler.set_timesteps(500)
    for timestep in scheduler.timesteps[:2]:
        noisy = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(torch.ones_like(noisy), timestep, latents).prev_sample
    assert latents.isfinite().all()
    with pytest.raises(ValidationError):
        Sample(steps=501)  # the spacing of the published pipelines would start at step 502 of 1,000, far from noise


def test_the_recipe_knows_the_same_schedulers():
    assert set(get_args(SchedulerName)) == set(SCHEDULERS)


def test_half_precision_weights_make_nearly_the_same_picture(captioned):
    full = Sampler(load_diffusion(str(captioned / "sd1")), SETTINGS, CPU, "float32")(PROMPTS[:2], SEEDS[:2])
    diffusion = load_diffusion(str(captioned / "sd1"))
    diffusion.unet.to(torch.bfloat16)
    half = Sampler(diffusion, SETTINGS, CPU, "bfloat16")(PROMPTS[:2], SEEDS[:2])
    autocast = Sampler(load_diffusion(str(captioned / "sd1")), SETTINGS, CPU, "bfloat16")(PROMPTS[:2], SEEDS[:2])
    assert np.abs(full.astype(int) - autocast).mean() < 3
    assert np.abs(full.astype(int) - half).mean() < 6


def test_seeds_differ_between_prompts_pictures_and_runs():
    seeds = {image_seed(run, prompt, image) for run in range(3) for prompt in range(50) for image in range(4)}
    assert len(seeds) == 600
