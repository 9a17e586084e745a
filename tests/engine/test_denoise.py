"""Loss and batches of text-to-image, written out."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from medpeft_cli.engine.denoise import DenoiseTask, evenly, predict_noise
from medpeft_cli.engine.latents import encode_dataset
from medpeft_cli.errors import DataError
from tests.toys import SECOND_WIDTH


@pytest.fixture(scope="module")
def task_of(assembly_of):
    def made(*overrides, pipeline="sd1"):
        assembly = assembly_of(*overrides, pipeline=pipeline)
        manifest = assembly.manifest
        encoded = encode_dataset(assembly, np.concatenate([manifest.indices("train"), manifest.indices("val")]))
        return DenoiseTask(assembly, encoded, lambda model, step: None), assembly

    return made


class Remembering(torch.nn.Module):
    """Answers with a constant and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, noisy, timesteps, tokens, added_cond_kwargs=None, return_dict=True):
        self.asked.append((noisy, timesteps, tokens, added_cond_kwargs))
        return (torch.full_like(noisy, 0.25),)


@pytest.mark.parametrize(("pipeline", "gamma"), [("sd1", None), ("sd1", 5), ("sd2", None), ("sd2", 5)])
def test_the_loss_is_the_weighted_squared_error_of_noise_or_velocity(task_of, pipeline, gamma):
    task, assembly = task_of(f"train.min_snr_gamma={gamma or 'null'}", pipeline=pipeline)
    (micro,) = [micro for micro in task.micro_batches(0, 0) if micro.step == 0]
    example, model = micro.batch, Remembering()
    loss = task.loss(model, micro)

    # invert the noising to find the noise that was added
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, dim=0)[example.timesteps]
    a, b = (value.view(-1, 1, 1, 1) for value in (alphas.sqrt(), (1 - alphas).sqrt()))
    if pipeline == "sd1":
        noise = example.target
        clean = (example.noisy - b * noise) / a
    else:  # v = a ε − b x and noisy = a x + b ε
        noise = a * example.target + b * example.noisy
        clean = a * example.noisy - b * example.target
    torch.testing.assert_close(a * clean + b * noise, example.noisy)
    snr = alphas / (1 - alphas)
    weight = torch.ones(len(snr)) if gamma is None else snr.clamp(max=gamma) / (snr + (pipeline == "sd2"))
    expected = (weight * (example.target - 0.25).square().mean(dim=(1, 2, 3))).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert abs(float(noise.mean())) < 0.15 and abs(float(noise.std()) - 1) < 0.1
    assert float(clean.abs().max()) < 30


def test_the_shares_of_a_step_hold_the_same_examples_as_the_whole(task_of):
    whole, _ = task_of()
    parts, _ = task_of("train.micro_batch_size=3")
    model = Remembering()
    for step in range(3):
        one = [micro for micro in whole.micro_batches(0, 0) if micro.step == step]
        several = [micro for micro in parts.micro_batches(0, 0) if micro.step == step]
        assert (len(one), len(several)) == (1, 2)
        assert [micro.last for micro in several] == [False, True]
        assert torch.equal(one[0].batch.noisy, torch.cat([micro.batch.noisy for micro in several]))
        total = sum(parts.loss(model, micro) for micro in several)
        torch.testing.assert_close(total, whole.loss(model, one[0]))


def test_batches_are_functions_of_their_place(task_of):
    first, _ = task_of()
    again, _ = task_of()
    late = list(again.micro_batches(1, 1))
    expected = [micro for micro in first.micro_batches(1, 0) if micro.step >= 1]
    assert [micro.step for micro in late] == [1, 2]
    assert all(torch.equal(a.batch.noisy, b.batch.noisy) for a, b in zip(late, expected, strict=True))
    other, _ = task_of("seed=1")
    assert not torch.equal(next(other.micro_batches(0, 0)).batch.noisy, next(first.micro_batches(0, 0)).batch.noisy)


def test_each_pass_shows_each_picture_once_with_new_noise(task_of):
    task, _ = task_of("train.steps=27", "train.validate_steps=9", "train.prompt_dropout=0")
    seen = []
    task._example = lambda indices, passes: seen.extend(zip(indices.tolist(), passes.tolist(), strict=True))
    for epoch in range(3):
        list(task.micro_batches(epoch, 0))
    train = task.train_indices.tolist()
    assert len(train) == 27 and len(seen) == 108
    for number in range(4):
        assert sorted(index for index, of_pass in seen if of_pass == number) == train
    del task._example
    one, two = (task._example(np.array([train[0]]), np.array([number])) for number in (0, 1))
    assert not torch.equal(one.target, two.target)


def test_the_last_interval_ends_with_the_last_step(task_of):
    task, _ = task_of("train.steps=8", "train.validate_steps=3")
    assert [len(list(task.micro_batches(epoch, 0))) for epoch in range(3)] == [3, 3, 2]


def test_prompts_are_dropped_as_often_as_asked(task_of):
    task, _ = task_of("train.prompt_dropout=0.3", "train.batch_size=27", "train.micro_batch_size=27", "train.steps=30")
    empty = task.encoded.prompts([task.train_indices[0]], np.array([True])).tokens[0]
    tokens = torch.cat([micro.batch.prompts.tokens for micro in task.micro_batches(0, 0)])
    share = float((tokens == empty).all(dim=2).all(dim=1).float().mean())
    assert 0.15 < share < 0.45


def test_xl_is_told_size_and_crop(task_of):
    task, _ = task_of(pipeline="sdxl")
    model = Remembering()
    micro = next(task.micro_batches(0, 0))
    task.loss(model, micro)
    added = model.asked[0][3]
    assert added["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 4
    assert added["text_embeds"].shape == (4, SECOND_WIDTH)


def test_validation_is_fixed_whatever_the_seed_and_has_no_dropped_prompt(task_of):
    losses = []
    for overrides in ((), ("seed=5", "train.prompt_dropout=1"), ("train.micro_batch_size=2",)):
        task, _ = task_of(*overrides)
        model = Remembering()
        losses.append(task.validate(model, 0)["loss"])
        steps = torch.cat([timesteps for _, timesteps, _, _ in model.asked])
        assert steps.tolist() == [int((place + 0.5) / 9 * 1000) for place in range(9)]
        tokens = torch.cat([tokens for _, _, tokens, _ in model.asked])
        assert torch.equal(tokens, task.encoded.prompts(task.val_indices).tokens)
    assert losses[0] == losses[1] == pytest.approx(losses[2])


def test_the_prediction_is_the_unets(task_of):
    task, assembly = task_of(pipeline="sdxl")
    example = next(task.micro_batches(0, 0)).batch
    with torch.inference_mode():
        assembly.adapted.model.eval()
        found = predict_noise(assembly.adapted.model, *example[::2], example.prompts, 16)
        expected = assembly.adapted.model(
            example.noisy, example.timesteps, encoder_hidden_states=example.prompts.tokens,
            added_cond_kwargs={
                "text_embeds": example.prompts.pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 4),
            },
        ).sample  # fmt: skip
    assert torch.equal(found, expected)
    assert isinstance(task.scheduler, DDPMScheduler)


def test_pictures_are_chosen_evenly_and_an_empty_split_is_an_error(assembly_of):
    manifest = assembly_of().manifest
    assert evenly(np.arange(10), 4, manifest, "val").tolist() == [0, 2, 5, 7]
    assert (
        evenly(np.arange(3), 4, manifest, "val").tolist()
        == [0, 1, 2]
        == evenly(np.arange(3), None, manifest, "v").tolist()
    )
    with pytest.raises(DataError, match="no picture is in split val"):
        evenly(np.arange(0), 4, manifest, "val")
