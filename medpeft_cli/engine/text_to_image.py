"""Text-to-image from recipe to record: the whole line is `run_text_to_image`."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medpeft_cli.data.images import InputSpec
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.engine.album import contact_sheet
from medpeft_cli.engine.assembly import (
    Assembly,
    adapt_model,
    describe,
    facts,
    loader_threads,
    open_dataset,
    pick_device,
    refuse_small_store,
)  # fmt: skip
from medpeft_cli.engine.compare import compare
from medpeft_cli.engine.denoise import DenoiseTask, evenly, validation_indices
from medpeft_cli.engine.generate import FOLDER, folder_of, make, prompts_of_test_split, wanted_by
from medpeft_cli.engine.latents import encode_dataset, free_memory, without_encoders
from medpeft_cli.engine.restore import pipeline_info
from medpeft_cli.engine.rows import cache_folder
from medpeft_cli.engine.run import finish_training, recorded_run, train, with_search
from medpeft_cli.engine.sample import Sampler, Settings, image_seed
from medpeft_cli.engine.together import told, wait_for_all
from medpeft_cli.errors import DataError
from medpeft_cli.files import atomic_path
from medpeft_cli.metrics.alignment import ClipModel, load_clip
from medpeft_cli.metrics.encoders import Encoder, load_encoder
from medpeft_cli.metrics.generation import FEWEST
from medpeft_cli.metrics.pictures import folder_pictures, stored_pictures
from medpeft_cli.models.diffusion import load_diffusion
from medpeft_cli.recipe.load import Loaded
from medpeft_cli.recipe.schema import GenerateRecipe
from medpeft_cli.runs import ranks
from medpeft_cli.runs.ranks import follows
from medpeft_cli.runs.record import Record
from medpeft_cli.runs.skip import refuse_changed_inputs

HALF = (0.5, 0.5, 0.5)  # a VAE reads values from −1 to 1
SAMPLES = 4  # pictures at each validation


def run_text_to_image(loaded: Loaded, results: Path, command: str, *, evaluate: bool = True) -> Path:
    """Fine-tune as a recipe says, generate from the test split's prompts, score the pictures, return the run directory.

    A half-done run goes on from its checkpoint. Arguments and errors as in `run_classification`.
    """
    with recorded_run(loaded, results, command) as record:
        if "delta" not in record.data:
            record.save(status="running", error=None)
            if evaluate:
                refuse_unscorable(loaded.recipe, open_dataset(loaded.recipe)[1])
            # --- search, where the recipe asks for one, by trials on the validation split
            recipe = with_search(record, loaded.recipe, _trial)
            # --- data and model
            assembly = assemble(recipe)
            diffusion = assembly.pretrained
            refuse_changed_inputs(record, assembly.manifest.sha256, diffusion.weights_sha256)
            describe(assembly)
            record.save(**facts(assembly))
            info = pipeline_info(recipe, diffusion, assembly.input.size, record.data["id"])
            shutil.rmtree(record.run_dir / FOLDER, ignore_errors=True)  # of an earlier model
            # --- latents and prompts, from the cache; then VAE and text encoder go
            if follows():
                wait_for_all()  # process 0 fills the cache
            encoded = encode_dataset(assembly, _needed(assembly))
            if not follows():
                wait_for_all()
            assembly = without_encoders(assembly)
            del diffusion
            free_memory()
            # --- train; sample pictures and the loss on fixed noise at each validation
            train(assembly, DenoiseTask(assembly, encoded, SamplePictures(assembly, record.run_dir)), info, record)
        finish_training(record)
        # --- pictures from the test split's prompts against those of the test split
        if evaluate:
            score_test(record, loaded.recipe)
    return record.run_dir


def _trial(recipe: GenerateRecipe, folder: Path) -> tuple[Assembly, DenoiseTask]:
    assembly = assemble(recipe)
    encoded = encode_dataset(assembly, _needed(assembly))
    assembly = without_encoders(assembly)
    free_memory()
    return assembly, DenoiseTask(assembly, encoded, lambda model, step: None)


def assemble(recipe: GenerateRecipe) -> Assembly:
    """Read the prepared dataset, load the pipeline and put the method into its U-Net, on the recipe's device."""
    device = pick_device(recipe.device)
    card, manifest = open_dataset(recipe)
    spec = recipe.pipeline
    diffusion = load_diffusion(spec.name, variant=spec.variant, config=spec.config)
    read = InputSpec(spec.size or diffusion.size, HALF, HALF, "bicubic", 1.0)
    refuse_small_store(manifest, read)
    adapted = adapt_model(diffusion.unet, "unet", recipe, device)
    return Assembly(recipe, card, manifest, diffusion, read, adapted, device, loader_threads(recipe))


def score_test(record: Record, recipe: GenerateRecipe, weights: Path | None = None) -> None:
    """Generate the pictures that the recipe asks for, those that are missing, and compare them with the test split's.

    Args:
        record: of a trained run.
        recipe: the run's, with what is to be scored otherwise.
        weights: where the pipeline is now; None = where it was.

    Raises:
        DataError: if data or weights are not those the run was trained with, or encoder or CLIP model are not here.
    """
    started = time.monotonic()
    _, manifest = open_dataset(recipe)
    refuse_changed_inputs(record, manifest.sha256)
    device = pick_device(recipe.device)
    judges = None if follows() else _judges(recipe, device)
    # --- pictures, a part of them in each process
    record.data = told(record.data)
    wanted = wanted_by(record, manifest)
    folder = folder_of(record, wanted, is_usual=True)
    shard = (ranks.here.rank + 1, ranks.here.size)
    make(record, wanted, folder, recipe.sample.batch_size, shard, weights)
    wait_for_all()
    if judges is None:
        return
    made = time.monotonic()
    # --- scores
    test = _compare(recipe, manifest, [folder], judges)
    test |= {"folder": folder.name, "generation": wanted.protocol(record)}
    timing = {"generate_seconds": round(made - started, 3), "eval_seconds": round(time.monotonic() - made, 3)}
    record.save(
        status="finished",
        error=None,
        timing=record.data["timing"] | timing,
        metrics=record.data["metrics"] | {"test": test},
    )


def score_folders(record: Record, recipe: GenerateRecipe, folders: Sequence[Path]) -> dict[str, Any]:
    """Compare other pictures with the test pictures that a run's own are compared with; the record stays as it is.

    Args:
        record: of the run.
        recipe: the run's, with what is to be scored otherwise.
        folders: of the pictures, such as those of the untuned pipeline; several (shards) count as one.

    Returns:
        Scores and protocol, as `compare` gives them.

    Raises:
        DataError: if the data is not what the run saw, pictures cannot be read, or encoder or CLIP model are not here.
    """
    _, manifest = open_dataset(recipe)
    refuse_changed_inputs(record, manifest.sha256)
    return _compare(recipe, manifest, folders, _judges(recipe, pick_device(recipe.device)))


def _compare(
    recipe: GenerateRecipe, manifest: Manifest, folders: Sequence[Path], judges: tuple[Encoder, ClipModel | None]
) -> dict[str, Any]:
    """Compare pictures with those of the test split whose texts the recipe takes as prompts."""
    real = np.array([index for index, _ in prompts_of_test_split(recipe, manifest).texts])
    seen = manifest.training_subset(recipe.data.fraction, recipe.data.k_shot)
    score, (encoder, clip) = recipe.evaluate, judges
    return compare(
        stored_pictures(manifest, real),
        folder_pictures(folders),
        encoder=encoder,
        clip=clip,
        train=stored_pictures(manifest, seen) if score.nearest else None,
        bootstrap=score.bootstrap,
        confidence=score.confidence,
        cache=cache_folder(manifest.root) / "features",
    )


def refuse_unscorable(recipe: GenerateRecipe, manifest: Manifest) -> None:
    """Raise before search and training what scoring would raise after them.

    Raises:
        DataError: if there would be too few pictures, or encoder or CLIP model are not here.
        RecipeError: if one of them is unknown.
    """
    chosen, test = len(prompts_of_test_split(recipe, manifest).texts), len(manifest.indices("test"))
    if chosen < FEWEST:
        raise DataError(
            f"sample.prompts: {chosen} of the {test} test pictures, the metrics need {FEWEST} at least",
            "hundreds make a usable estimate; --no-evaluate trains without scoring",
        )
    _judges(recipe, torch.device("cpu"))


def _judges(recipe: GenerateRecipe, device: torch.device) -> tuple[Encoder, ClipModel | None]:
    score = recipe.evaluate
    encoder = load_encoder(score.encoder, device, score.encoder_weights and Path(score.encoder_weights))
    return encoder, load_clip(score.clip, device) if score.clip else None


class SamplePictures:
    """The same few pictures at each validation: samples/step-<number>.png, prompts of the validation split.

    The pipeline is loaded for them each time and let go again, so that it takes no memory while training.
    """

    def __init__(self, assembly: Assembly, run_dir: Path):
        self.recipe, self.device, self.folder = assembly.recipe, assembly.device, run_dir / "samples"
        manifest, sample = assembly.manifest, assembly.recipe.sample
        chosen = evenly(manifest.indices("val"), SAMPLES, manifest, "val").tolist()
        self.prompts = [(manifest.texts or [])[index] for index in chosen]
        self.seeds = [image_seed(self.recipe.seed, index, 0) for index in chosen]
        self.settings = Settings(sample.steps, sample.guidance, sample.scheduler, assembly.input.size)

    def __call__(self, model: nn.Module, step: int) -> None:
        """Make and save them with a U-Net."""
        spec = self.recipe.pipeline
        parts = replace(load_diffusion(spec.name, variant=spec.variant, config=spec.config), unet=model)
        images = Sampler(parts, self.settings, self.device, self.recipe.train.precision)(self.prompts, self.seeds)
        with atomic_path(self.folder / f"step-{step:06d}.png") as temporary:
            contact_sheet(images, SAMPLES).save(temporary, format="PNG")
        del parts
        free_memory()


def _needed(assembly: Assembly) -> np.ndarray:
    """Return the pictures that training and its validation read."""
    recipe, manifest = assembly.recipe, assembly.manifest
    train_indices = manifest.training_subset(recipe.data.fraction, recipe.data.k_shot)
    return np.concatenate([train_indices, validation_indices(manifest)])
