"""Training of a U-Net to predict the noise in latents: batches, loss and validation for the engine's loop."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler
from numpy.random import Generator, Philox
from torch import Tensor, nn

from medpeft_cli.data.images import epoch_order
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.data.threads import ahead
from medpeft_cli.engine.assembly import Assembly
from medpeft_cli.engine.latents import Encoded, Prompts
from medpeft_cli.engine.loop import Micro, Plan, autocast
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.engine.together import block, dealt, gathered, mine, share_count
from medpeft_cli.errors import DataError
from medpeft_cli.runs.ranks import follows

VALIDATION_PICTURES = 128  # of the validation split, evenly spaced; the same for every method and seed
AHEAD = 2  # examples prepared before they are asked for
VALIDATION_SEED = 0  # of their noise, whatever the run's seed

Draw = Callable[[nn.Module, int], None]
"""Makes the sample pictures of a model after so many steps."""


class Example(NamedTuple):
    """A batch of noisy latents, and what is to be said of them."""

    noisy: Tensor  # float32 (B, C, h, w)
    target: Tensor  # the same: noise or velocity
    timesteps: Tensor  # int64 (B,)
    prompts: Prompts


def validation_indices(manifest: Manifest) -> np.ndarray:
    """Return the pictures of the validation split that are looked at, int64 ascending.

    Raises:
        DataError: if the split is empty.
    """
    return evenly(manifest.indices("val"), VALIDATION_PICTURES, manifest, "val")


def evenly(indices: np.ndarray, count: int | None, manifest: Manifest, split: str) -> np.ndarray:
    """Return at most so many indices of a split, evenly spaced; None = all.

    Raises:
        DataError: if there are none.
    """
    if not len(indices):
        raise DataError(
            f"{manifest.root}: no picture is in split {split}", "give the card a split with all three parts"
        )
    if count is None or count >= len(indices):
        return indices
    return indices[np.arange(count) * len(indices) // count]


class DenoiseTask:
    """Batches, loss and validation of text-to-image. The test split is not reachable here.

    Everything random is a function of its place: the order of (seed, pass over the pictures); timestep, noise, the draw of
    the latents and whether the prompt is dropped of (seed, pass, picture).

    Args:
        assembly: recipe, dataset, and the pipeline's scheduler, which says how noise is added and what is predicted.
        encoded: pictures and texts as the U-Net reads them.
        draw: makes sample pictures at each validation.
    """

    def __init__(self, assembly: Assembly, encoded: Encoded, draw: Draw):
        recipe, manifest = assembly.recipe, assembly.manifest
        self.recipe, self.manifest, self.encoded = recipe, manifest, encoded
        self.draw, self.device, self.size = draw, assembly.device, assembly.input.size
        self.scheduler = DDPMScheduler.from_config(assembly.pretrained.scheduler.config)
        self.predicts_velocity = self.scheduler.config.prediction_type == "v_prediction"
        self.train_indices = manifest.training_subset(recipe.data.fraction, recipe.data.k_shot)
        self.val_indices = validation_indices(manifest)
        spec = recipe.train
        self.plan = Plan(
            spec.steps, min(spec.validate_steps, spec.steps), spec.warmup_steps, spec.select, None, spec.ema_decay
        )
        self.weights = self._weights(spec.min_snr_gamma).to(self.device)

    def micro_batches(self, epoch: int, first_step: int) -> Iterator[Micro]:
        """Yield the shares of the steps up to the next validation; passes over the pictures follow each other without a gap."""
        spec, start = self.recipe.train, epoch * self.plan.steps_per_epoch
        orders: dict[int, np.ndarray] = {}
        shares = []  # step, part, last, pictures, and the pass of each
        for step in range(first_step, min(self.plan.steps_per_epoch, self.plan.total_steps - start)):
            places = np.arange((start + step) * spec.batch_size, (start + step + 1) * spec.batch_size)
            passes, places = np.divmod(places, len(self.train_indices))
            for number in set(passes.tolist()) - orders.keys():
                orders[number] = self._order(number)
            indices = np.array([orders[number][place] for number, place in zip(passes, places, strict=True)])
            parts = share_count(spec.batch_size, spec.micro_batch_size)
            split = zip(np.array_split(indices, parts), np.array_split(passes, parts), strict=True)
            shares += [(step, part, part == parts - 1, *share) for part, share in enumerate(split)]
        own = mine(shares)
        examples = ahead(lambda place: self._example(*own[place][3:]), len(own), AHEAD)
        for (step, part, last, indices, _), example in dealt(shares, examples):
            yield Micro(step, part, last, len(indices), example)

    def loss(self, model: nn.Module, micro: Micro) -> Tensor:
        """Return the share's part of the mean squared error of its step, weighted by timestep."""
        example = micro.batch
        error = _error(
            predict_noise(model, example.noisy, example.timesteps, example.prompts, self.size), example.target
        )
        return (error * self.weights[example.timesteps]).sum() / self.recipe.train.batch_size

    def validate(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the loss on fixed pictures, noise and timesteps, and make the sample pictures."""
        loss = self.scores(gathered(self._errors(model, block(self._validation_starts()))))["overall"]["loss"]["value"]
        if not follows():
            self.draw(model, step)
        return {"loss": loss}

    def outputs(self, model: nn.Module) -> Tensor:
        """Return the errors of the validation pictures' predictions, float32 (V,) on the CPU."""
        return self._errors(model, self._validation_starts())

    def _validation_starts(self) -> range:
        """Return where each batch of the validation pictures starts."""
        return range(0, len(self.val_indices), self.recipe.train.micro_batch_size)

    @torch.inference_mode()
    def _errors(self, model: nn.Module, starts: Sequence[int]) -> Tensor:
        model.eval()
        size, errors = self.recipe.train.micro_batch_size, []
        for start in starts:
            example = self._validation_example(start, self.val_indices[start : start + size])
            with autocast(self.device, self.recipe.train.precision):
                prediction = predict_noise(model, example.noisy, example.timesteps, example.prompts, self.size)
            errors.append(_error(prediction, example.target).cpu())
        return torch.cat(errors) if errors else torch.empty(0)

    def scores(self, outputs: Tensor) -> dict[str, Any]:
        """Return the record of the validation split: the mean error."""
        return {
            "n": len(outputs),
            "protocol": {"noise": "fixed", "timesteps": "evenly spaced", "prompts": "kept"},
            "overall": {"loss": {"value": float(outputs.double().mean())}},
        }

    def _order(self, number: int) -> np.ndarray:
        return epoch_order(self.train_indices, self.manifest.labels, self.recipe.seed, number, "shuffle")

    def _example(self, indices: np.ndarray, passes: np.ndarray) -> Example:
        """Return pictures with the noise, timestep and prompt of their pass."""
        steps, dropped, noises = [], [], []
        shape = self.encoded.shape
        for index, number in zip(indices.tolist(), passes.tolist(), strict=True):
            rng = Generator(Philox(key=[seed_of(self.recipe.seed, "noise"), number << 32 | index]))
            steps.append(int(rng.integers(self.scheduler.config.num_train_timesteps)))
            dropped.append(rng.random() < self.recipe.train.prompt_dropout)
            noises.append(rng.standard_normal((2, *shape), dtype=np.float32))  # of the posterior, and to be predicted
        posterior, noise = torch.from_numpy(np.stack(noises, axis=1))
        latents = self.encoded.latents(indices, posterior)
        return self._noisy(latents, noise, torch.tensor(steps), self.encoded.prompts(indices, np.array(dropped)))

    def _validation_example(self, start: int, indices: np.ndarray) -> Example:
        """Return pictures of the validation split with noise and timesteps that never change."""
        total = self.scheduler.config.num_train_timesteps
        places = (np.arange(start, start + len(indices)) + 0.5) / len(self.val_indices)
        noises = [
            Generator(Philox(key=[seed_of(VALIDATION_SEED, "validation"), index])).standard_normal(
                self.encoded.shape, dtype=np.float32
            )
            for index in indices.tolist()
        ]
        latents, steps = self.encoded.latents(indices, None), torch.from_numpy((places * total).astype(np.int64))
        return self._noisy(latents, torch.from_numpy(np.stack(noises)), steps, self.encoded.prompts(indices))

    def _noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor, prompts: Prompts) -> Example:
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps) if self.predicts_velocity else noise
        noisy, target, timesteps, tokens = (
            each.to(self.device, non_blocking=True) for each in (noisy, target, timesteps, prompts.tokens)
        )
        pooled = None if prompts.pooled is None else prompts.pooled.to(self.device, non_blocking=True)
        return Example(noisy, target, timesteps, Prompts(tokens, pooled))

    def _weights(self, gamma: float | None) -> Tensor:
        """Return the weight of each timestep: 1, or min-SNR-γ (Hang et al. 2023, arXiv:2303.09556, section 3.4).

        min(SNR, γ) / SNR for a predicted noise, min(SNR, γ) / (SNR + 1) for a velocity; float32 (T,).
        """
        alphas = self.scheduler.alphas_cumprod.double()
        if gamma is None:
            return torch.ones(len(alphas))
        snr = alphas / (1 - alphas)
        return (snr.clamp(max=gamma) / (snr + self.predicts_velocity).clamp(min=1e-8)).float()


def predict_noise(model: nn.Module, noisy: Tensor, timesteps: Tensor, prompts: Prompts, size: int) -> Tensor:
    """Return what a U-Net predicts.

    Args:
        model: diffusers' UNet2DConditionModel, adapted or not.
        noisy: latents (B, C, h, w).
        timesteps: int64 (B,).
        prompts: their embeddings.
        size: side of the pictures, pixels; XL takes it as original and target size, uncropped.
    """
    extra = {}
    if prompts.pooled is not None:
        ids = torch.zeros(len(noisy), 6, device=noisy.device)  # no tensor of a list: that waits for the device
        ids[:, :2] = ids[:, 4:] = size
        extra = {"text_embeds": prompts.pooled, "time_ids": ids}
    return model(noisy, timesteps, prompts.tokens, added_cond_kwargs=extra or None, return_dict=False)[0]


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each picture, float32 (B,)."""
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))
