"""Pictures of a text-to-image run: which are wanted, which are there, and the making of the others."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medpeft_cli.console import console
from medpeft_cli.data.manifest import Manifest
from medpeft_cli.data.tables import TABLES, read_table, table_columns
from medpeft_cli.engine.album import PROTOCOL, Album, Job, made_otherwise
from medpeft_cli.engine.assembly import open_dataset, pick_device
from medpeft_cli.engine.denoise import evenly
from medpeft_cli.engine.failures import enough_memory, explained
from medpeft_cli.engine.latents import quiet
from medpeft_cli.engine.loop import DTYPES
from medpeft_cli.engine.restore import restore_adapter
from medpeft_cli.engine.run import refuse_untrained
from medpeft_cli.engine.sample import SCHEDULERS, Sampler, Settings, image_seed
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.files import read_json
from medpeft_cli.methods.state import INFO_FILE
from medpeft_cli.models.diffusion import Diffusion, load_diffusion
from medpeft_cli.recipe.schema import GenerateRecipe, Pipeline
from medpeft_cli.registry import lookup
from medpeft_cli.runs.environment import versions
from medpeft_cli.runs.record import Record
from medpeft_cli.runs.skip import refuse_changed_inputs
from medpeft_cli.runs.stop import leave_if_asked

FOLDER = "images"  # of a run: the pictures that its recipe asked for first
LIBRARIES = ("medpeft", "torch", "diffusers", "transformers", "peft", "numpy", "pillow")
PROMPT_COLUMNS = ("prompt", "text")


@dataclass(frozen=True)
class PromptList:
    """Texts with their index where they come from.

    Attributes:
        source: where they come from, in words.
        texts: (index, text), in order; no text is empty.
    """

    source: str
    texts: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Wanted:
    """Pictures that are asked for.

    Attributes:
        prompts: their texts.
        count: pictures a prompt.
        seed: from which each picture has its own.
        settings: how they are made.
        base: by the pipeline as it was before it was tuned.
    """

    prompts: PromptList
    count: int
    seed: int
    settings: Settings
    base: bool = False

    def jobs(self) -> list[Job]:
        """Return one job a picture, in order."""
        return [
            Job(index, number, text, image_seed(self.seed, index, number))
            for index, text in self.prompts.texts
            for number in range(self.count)
        ]

    def protocol(self, record: Record) -> dict[str, Any]:
        """Return everything that decides the pictures, JSON-ready."""
        texts = json.dumps(list(self.prompts.texts)).encode()
        return {
            "pipeline": record.data["weights"]["source"],
            "weights_sha256": record.data["weights"]["sha256"],
            "adapter_sha256": None if self.base else record.data["delta"]["sha256"],
            "precision": record.recipe.train.precision,
            "steps": self.settings.steps,
            "guidance": self.settings.guidance,
            "scheduler": self.settings.scheduler or "the pipeline's own",
            "size_pixels": self.settings.size,
            "count": self.count,
            "seed": self.seed,
            "prompts": {
                "source": self.prompts.source,
                "number": len(self.prompts.texts),
                "sha256": hashlib.sha256(texts).hexdigest(),
            },
        }


def wanted_by(record: Record, manifest: Manifest | None = None) -> Wanted:
    """Return the pictures that a run's recipe asks for: from the prompts of the test split."""
    recipe, sample = record.recipe, record.recipe.sample
    prompts = prompts_of_test_split(recipe, manifest or _dataset(record))
    settings = Settings(sample.steps, sample.guidance, sample.scheduler, record.data["input"]["size"])
    return Wanted(prompts, sample.count, recipe.seed, settings)


def prompts_of_test_split(recipe: GenerateRecipe, manifest: Manifest) -> PromptList:
    """Return the texts of the test pictures that the recipe asks for, by their place in the dataset."""
    texts = manifest.texts or []
    chosen = evenly(manifest.indices("test"), recipe.sample.prompts, manifest, "test").tolist()
    return PromptList(f"test split of {manifest.card}", [(index, texts[index]) for index in chosen])


def read_prompt_list(file: Path) -> PromptList:
    """Read prompts: a .txt file, one a line, or a table with a column prompt (or text).

    An empty prompt is left out and told; the index of the others is their place in the file, from 0.

    Raises:
        DataError: if the file or the column is missing, or no prompt is left.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file", "--prompts wants a .txt file, one prompt a line, or a .csv file")
    if file.name.lower().endswith(TABLES):
        found = [name for name in table_columns(file) if name in PROMPT_COLUMNS]
        if not found:
            names = ", ".join(repr(name) for name in table_columns(file)[:8])
            raise DataError(
                f"{file}: no column 'prompt', got {names}", "name the column of the prompts 'prompt' or 'text'"
            )
        column = min(found, key=PROMPT_COLUMNS.index)
        texts = [row[column] for row in read_table(file, [column])]
    elif file.suffix.lower() not in ("", ".txt"):
        raise DataError(
            f"{file}: got {file.suffix}, wanted a .txt file or a table", f"one prompt a line, or {', '.join(TABLES)}"
        )
    else:
        try:
            texts = [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not a text file: byte {error.start} is not UTF-8", "save it as UTF-8") from error
        texts = texts[:-1] if texts[-1] == "" else texts
    kept = [(index, text) for index, text in enumerate(texts) if text]
    if not kept:
        raise DataError(f"{file}: no prompt in it", "one prompt a line, or a table with a column 'prompt'")
    if empty := len(texts) - len(kept):
        console.warn(f"{file}: {empty:,} of {len(texts):,} prompts are empty and left out")
    return PromptList(file.name, kept)


def generate(
    run_dir: Path,
    *,
    prompts: PromptList | None = None,
    count: int | None = None,
    seed: int | None = None,
    base: bool = False,
    batch_size: int | None = None,
    shard: tuple[int, int] = (1, 1),
    out: Path | None = None,
    weights: Path | None = None,
    **changes: Any,
) -> Path:
    """Make pictures with a trained run; what is there already is kept.

    Args:
        run_dir: a run of task generate.
        prompts: texts; None = those of the test split that the recipe asks for.
        count: pictures a prompt; None = the recipe's.
        seed: from which each picture has its own; None = the recipe's.
        base: by the pipeline as it was before it was tuned.
        batch_size: pictures at once; no part of the result.
        shard: (i, n): the i-th of n parts, from 1. All parts together give the files of one whole.
        out: folder; None = that of `folder_of` in the run.
        weights: where the pipeline is now; None = where it was.
        changes: steps, guidance, scheduler or size instead of the recipe's.

    Returns:
        The folder: pictures, images.jsonl, generation.json and, once all are there, contact-sheet.png.

    Raises:
        RecipeError, DataError, RunError: as the parts raise them.
    """
    record = Record.read(run_dir)
    if record.task != "generate":
        raise DataError(f"{run_dir}: a run of task {record.task}, wanted generate", "medpeft evaluate scores it")
    refuse_untrained(record)
    if (name := changes.get("scheduler")) is not None:
        lookup("scheduler", SCHEDULERS, name)
    if changes.get("size", 0) % 8:
        raise RecipeError(f"--size: got {changes['size']}, wanted a multiple of 8 pixels", "such as 224 or 512")
    usual = None if prompts and out else wanted_by(record)
    sample, size = record.recipe.sample, record.data["input"]["size"]
    settings = replace(Settings(sample.steps, sample.guidance, sample.scheduler, size), **changes)
    wanted = Wanted(
        prompts or usual.prompts,
        sample.count if count is None else count,
        record.recipe.seed if seed is None else seed,
        settings,
        base,
    )
    if out is None:
        out = folder_of(record, wanted, is_usual=wanted == usual)
    with explained(record.recipe):
        make(record, wanted, out, batch_size or sample.batch_size, shard, weights)
    return out


def folder_of(record: Record, wanted: Wanted, *, is_usual: bool) -> Path:
    """Return the folder in a run where pictures belong: images-<hash of their protocol>/, or images/.

    images/ has what the recipe asked for first. A recipe whose `sample` was changed afterwards has its pictures beside it.

    Args:
        record: of the run.
        wanted: the pictures.
        is_usual: they are what the recipe asks for now.
    """
    first, protocol = record.run_dir / FOLDER, wanted.protocol(record)
    belongs = not made_otherwise(first, protocol) if (first / PROTOCOL).is_file() else is_usual
    if belongs:
        return first
    name = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
    return record.run_dir / f"{FOLDER}-{name}"


def make(
    record: Record,
    wanted: Wanted,
    folder: Path,
    batch_size: int,
    shard: tuple[int, int] = (1, 1),
    weights: Path | None = None,
) -> None:
    """Make the wanted pictures that are not in a folder yet; see `generate`."""
    album, everything = Album(folder, wanted.protocol(record)), wanted.jobs()
    part, parts = shard
    jobs = everything[part - 1 :: parts]
    missing = album.missing(jobs)
    if missing:
        recipe = record.recipe
        device = pick_device(recipe.device)
        diffusion = _pipeline(record, wanted.base, weights)
        if device.type == "cuda":
            with quiet():
                diffusion.unet.to(DTYPES[recipe.train.precision])
        sampler = Sampler(diffusion, wanted.settings, device, recipe.train.precision)
        texts = [text for _, text in wanted.prompts.texts]
        longer = sampler.encode.too_long(texts)
        album.note(prompts_truncated=longer, device=device.type, versions=versions(LIBRARIES))
        if longer:
            console.warn(
                f"{longer:,} of {len(texts):,} prompts are longer than the text encoder reads; their end is cut off"
            )
        # every batch is as large as the others, so that the pictures of a shard or of a second start are the same bits
        size = min(batch_size, len(everything))
        less = "halve sample.batch_size, or --batch of `medpeft generate`; the pictures stay the same"
        with (
            console.progress(len(jobs), folder.name, "images") as advance,
            enough_memory(f"{size} images at once", less),
        ):
            advance(len(jobs) - len(missing), resumed=True)
            for start in range(0, len(missing), size):
                batch = missing[start : start + size]
                padded = [*batch, *[batch[0]] * (size - len(batch))]
                images = sampler([job.prompt for job in padded], [job.seed for job in padded])
                for job, image in zip(batch, images, strict=False):
                    album.add(job, image)
                    advance(1)
                leave_if_asked()
    if waiting := album.finish(everything):
        console.say(
            f"{len(everything) - waiting:,} of {len(everything):,} images are there; the other shards are to come"
        )


def _pipeline(record: Record, base: bool, weights: Path | None) -> Diffusion:
    """Return the parts of the run's pipeline, the method folded into the U-Net where that is possible."""
    if base:
        # of the adapter folder, where a local path is written in full
        spec = Pipeline.model_validate(read_json(record.run_dir / "adapter" / INFO_FILE)["pipeline"])
        diffusion = load_diffusion(str(weights or spec.name), variant=spec.variant, config=spec.config)
        refuse_changed_inputs(record, record.data["data"]["manifest_sha256"], diffusion.weights_sha256)
        return diffusion
    restored = restore_adapter(record.run_dir / "adapter", weights)
    try:
        return restored.tuned()
    except RecipeError as error:
        console.detail(f"sampling with the adapter beside the weights: {error.message}")
        return restored.diffusion


def _dataset(record: Record) -> Manifest:
    """Return the run's dataset as it was."""
    _, manifest = open_dataset(record.recipe)
    refuse_changed_inputs(record, manifest.sha256)
    return manifest
