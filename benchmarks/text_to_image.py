"""Training and generation of text-to-image beside the plain recipe of diffusers + peft; run by hand.

    python -m benchmarks.text_to_image [training generation] [--pipeline demo_sd | sd15] [--size 64] [--batch 16] [--steps 30]
                                       [--precision float32] [--device auto] [--repeats 3]

`demo_sd` is the bundled pipeline, `sd15` has the layers of Stable Diffusion 1.5 at their true size and random weights. The plain
recipe is that of diffusers' train_text_to_image_lora.py: VAE and text encoder stay on the device and encode every step. Both
train LoRA of rank 4. Each measurement is a process of its own, and the two take turns.
It makes its own pictures in a temporary folder.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medpeft_cli import compat  # noqa: F401  (before diffusers)

# isort: split
import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.measure import Row, compare, in_process
from medpeft_cli.data.card import load_card
from medpeft_cli.data.images import ImageStore
from medpeft_cli.data.manifest import read_manifest
from medpeft_cli.data.prepare import prepare
from medpeft_cli.engine.assembly import pick_device
from medpeft_cli.engine.checkpoint import Checkpoint
from medpeft_cli.engine.denoise import DenoiseTask
from medpeft_cli.engine.latents import encode_dataset, free_memory, quiet, read_pictures, without_encoders
from medpeft_cli.engine.loop import DTYPES, autocast, fit
from medpeft_cli.engine.memory import PeakMemory
from medpeft_cli.engine.predict import normalise
from medpeft_cli.engine.sample import Sampler, Settings
from medpeft_cli.engine.text_to_image import assemble
from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.models import diffusion as models
from medpeft_cli.models.backbones import state_sha256
from medpeft_cli.recipe.load import load_recipe

WARM_UP = 5  # steps that are not counted
PICTURES = 96
CARD = """\
name: bench
title: Bench
modality: test
task: text
layout: {kind: csv, file: captions.csv, image: file, text: caption, split: split}
"""
RECIPE = """\
task: generate
data: {{card: {root}/bench.yaml, root: {root}/data}}
pipeline: {{name: demo_sd, size: {size}}}
method: {{name: lora, rank: 4, alpha: 4}}
train:
  {{steps: {steps}, validate_steps: {steps}, batch_size: {batch}, micro_batch_size: {batch}, precision: {precision}, lr: 1e-4,
    clip_norm: 1.0, prompt_dropout: 0.0, weight_decay: 0.01, checkpoint_seconds: 1e9}}
device: {device}
"""


def make_dataset(root: Path, size: int) -> None:
    """Write and prepare noisy pictures with captions of about thirty tokens."""
    (root / "raw").mkdir()
    rows = ["file,caption,split"]
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(40, 200, (8, 8), dtype=np.uint8)).resize((size, size))
        coarse.save(root / "raw" / f"{number:03}.png")
        words = " ".join(f"finding {rng.integers(1000)}" for _ in range(10))
        rows.append(f"{number:03}.png,{words},{'val' if number < 8 else 'test' if number < 16 else 'train'}")
    (root / "raw" / "captions.csv").write_text("\n".join(rows) + "\n")
    (root / "bench.yaml").write_text(CARD)
    prepare(load_card(str(root / "bench.yaml")), root / "raw", root / "data", size=size, on_leak="allow")


def stable_diffusion_15() -> models.Diffusion:
    """Return the layers of Stable Diffusion 1.5 with random weights, and the bundled tokenizer."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    )
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    tokenizers = models.load_diffusion("demo_sd").tokenizers
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    parts = [unet.eval(), vae.eval(), [CLIPTextModel(text).eval()], tokenizers, scheduler]
    return models.Diffusion(*parts, "sd1", 512, "sd15", "random", state_sha256(unet))


def assembly_of(options: argparse.Namespace) -> Any:
    if options.pipeline == "sd15":
        import medpeft_cli.engine.text_to_image as line

        line.load_diffusion = lambda *_, **__: stable_diffusion_15()
    file = Path(options.root) / "bench-recipe.yaml"
    values = vars(options) | {"steps": options.steps + WARM_UP}
    file.write_text(RECIPE.format(**values))
    return assemble(load_recipe(file).recipe)


class Stopwatch:
    """Seconds and peak memory from the end of the warm-up on."""

    def __init__(self, device: torch.device, warm_up: int = WARM_UP):
        self.device, self.left = device, warm_up

    def __call__(self, count: int = 1, **_: Any) -> None:
        self.left -= count
        if count and self.left == 0:
            self._wait()
            self.peak, self.start = PeakMemory(self.device), time.perf_counter()

    def read(self, units: int) -> dict[str, float]:
        self._wait()
        taken = time.perf_counter() - self.start
        return {"per_second": units / taken, "peak_bytes": int(self.peak.read()["peak_bytes"])}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def train_ours(options: argparse.Namespace) -> dict[str, float]:
    """Time the steps of `medpeft finetune`: cached latents and prompts, the engine's own loop."""
    assembly = assembly_of(options)
    watch = Stopwatch(assembly.device)
    encoded = encode_dataset(assembly, np.arange(PICTURES))
    assembly = without_encoders(assembly)
    free_memory()
    found: dict[str, float] = {}

    class Timed(DenoiseTask):
        def validate(self, model, step):  # noqa: ANN001, ANN202
            found.update(watch.read(options.steps))
            return {"loss": 0.0}

    task = Timed(assembly, encoded, lambda model, step: None)
    recipe = assembly.recipe
    with tempfile.TemporaryDirectory() as folder:
        fit(assembly.adapted, task, recipe.train, 0, assembly.device, Checkpoint(Path(folder)), watch)
    return found


def train_plain(options: argparse.Namespace) -> dict[str, float]:
    """Time the steps of the plain recipe: everything frozen in half precision, pictures and texts encoded each step."""
    from peft import LoraConfig

    device, half = pick_device(options.device), DTYPES[options.precision]
    parts = stable_diffusion_15() if options.pipeline == "sd15" else models.load_diffusion("demo_sd")
    root = Path(options.root)
    manifest = read_manifest(root / "data", load_card(str(root / "bench.yaml")))
    recipe_spec = assembly_spec(options)
    with quiet():
        unet, vae, text = parts.unet, parts.vae.to(device, half), parts.text_encoders[0].to(device, half)
        unet.requires_grad_(False).to(device, half)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    scheduler = DDPMScheduler.from_config(parts.scheduler.config)
    store, indices = ImageStore(manifest), manifest.indices("train")
    unet.train()
    watch = Stopwatch(device)
    order = np.random.default_rng(0)
    for _ in range(options.steps + WARM_UP):
        chosen = order.choice(indices, options.batch, replace=options.batch > len(indices))
        pixels = normalise(read_pictures(store, manifest, recipe_spec, chosen, 2).to(device), recipe_spec).to(half)
        tokens = parts.tokenizers[0](
            [manifest.texts[index] for index in chosen], max_length=77, padding="max_length", truncation=True, return_tensors="pt",
        ).input_ids.to(device)  # fmt: skip
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            prompts = text(tokens)[0]
        noise = torch.randn_like(latents)
        steps = torch.randint(0, 1000, (len(latents),), device=device)
        with autocast(device, options.precision):
            prediction = unet(scheduler.add_noise(latents, noise, steps), steps, prompts, return_dict=False)[0]
            loss = functional.mse_loss(prediction.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        watch(1)
    return watch.read(options.steps)


def assembly_spec(options: argparse.Namespace) -> Any:
    from medpeft_cli.data.images import InputSpec
    from medpeft_cli.engine.text_to_image import HALF

    return InputSpec(options.size, HALF, HALF, "bicubic", 1.0)


def generate_with(options: argparse.Namespace, merged: bool) -> dict[str, float]:
    """Time the pictures of our sampler with a merged adapter, or of the bare pipeline without any."""
    assembly = assembly_of(options)
    device, parts = assembly.device, assembly.pretrained
    prompts = [assembly.manifest.texts[index] for index in range(options.batch)]
    seeds = list(range(options.batch))
    watch = Stopwatch(device, 1)
    half = DTYPES[options.precision]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(parts.unet.config)
    weights = merged_state_dict(assembly.adapted)
    unet.load_state_dict(weights, assign=True)
    with quiet():
        parts = replace(parts, unet=unet.eval().to(device, half))
    if merged:
        sampler = Sampler(parts, Settings(10, 4.0, None, options.size), device, options.precision)

        def make() -> Any:
            return sampler(prompts, seeds)
    else:
        with quiet():
            pipeline = models.pipeline_of(parts).to(device, half)

        def make() -> Any:
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            return pipeline(
                prompts, generator=generators, num_inference_steps=10, guidance_scale=4.0, height=options.size, width=options.size,
            )  # fmt: skip

    for _ in range(options.rounds + 1):
        make()
        watch(1)
    return watch.read(options.rounds * options.batch)


WORKS = {
    "training": {"ours": train_ours, "plain": train_plain},
    "generation": {
        "ours": lambda options: generate_with(options, merged=True),
        "bare": lambda options: generate_with(options, merged=False),
    },
}


SPEED = {
    ("training", "demo_sd"): 1,
    ("training", "sd15"): 1.3,
    ("generation", "demo_sd"): 0.98,
    ("generation", "sd15"): 0.98,
}
MEMORY = {"training": 1}  # targets


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *WORKS], default=[])
    parser.add_argument("--pipeline", choices=("demo_sd", "sd15"), default="demo_sd")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--root")
    parser.add_argument("--only")
    return parser.parse_args(words)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield speed and peak memory of training beside the plain recipe, and of generation beside the bare pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), options.size)
        for part in options.parts or WORKS:
            ours, other = WORKS[part]
            words = ["--root", folder]
            for field in ("pipeline", "size", "batch", "steps", "rounds", "precision", "device"):
                words += [f"--{field}", getattr(options, field)]
            found: dict[str, list[dict[str, float]]] = {ours: [], other: []}
            for _ in range(options.repeats):
                for name in found:
                    found[name].append(in_process("benchmarks.text_to_image", part, "--only", name, *words))
            what = f"{part}: {options.pipeline}, {options.size} px, batch {options.batch}, {options.precision}, beside {other}"
            speeds, peaks = (
                [[one[key] for one in each] for each in found.values()] for key in ("per_second", "peak_bytes")
            )
            unit = "steps/s" if part == "training" else "images/s"
            yield compare("text_to_image", what, unit, *speeds, at_least=SPEED[part, options.pipeline])
            sizes = ([size / 2**20 for size in each] for each in peaks)
            yield compare("text_to_image", f"peak memory of {what}", "MiB", *sizes, at_most=MEMORY.get(part))


def main() -> None:
    """Print the rows, or what one process has measured for them."""
    options = arguments()
    if options.only:
        print(json.dumps(WORKS[options.parts[0]][options.only](options)))
        return
    for row in rows(options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
