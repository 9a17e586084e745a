"""Write a tuned model as others read it: timm weights, or a diffusers pipeline with its model card."""

import shutil
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from medpeft_cli.engine.model_card import model_card
from medpeft_cli.engine.restore import Restored, RestoredPipeline, restore_adapter
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.files import atomic_path, read_json, umask, unwritable, write_text
from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.methods.state import INFO_FILE
from medpeft_cli.runs.record import Record


def export_merged(run_dir: Path, target: Path, weights: Path | None = None) -> None:
    """Fold the adapter of a run into its pre-trained weights and write them.

    Classification: a safetensors state dict; `timm.create_model(name, num_classes=K, **options)` loads it and gives the
    same logits. Text-to-image: the folder of a pipeline; `DiffusionPipeline.from_pretrained` opens it.

    Args:
        run_dir: a trained run.
        target: .safetensors file, or folder that is new or empty.
        weights: where the backbone's local weights, or the pipeline, are now; None = where they were.

    Raises:
        DataError: if the run has no adapter.
        RecipeError: if `target` is of the wrong kind, or the method cannot be merged.
    """
    if not (run_dir / "adapter").is_dir():
        raise DataError(
            f"{run_dir}: no adapter folder; the run is not trained yet", "medpeft finetune the recipe first"
        )
    is_pipeline = "pipeline" in read_json(run_dir / "adapter" / INFO_FILE)
    _refuse_target(target, is_pipeline)
    restored = restore_adapter(run_dir / "adapter", weights)
    if isinstance(restored, RestoredPipeline):
        _write_pipeline(restored, Record.read(run_dir), target)
    else:
        _write_weights(restored, target)


def _refuse_target(target: Path, is_pipeline: bool) -> None:
    if not is_pipeline and target.suffix != ".safetensors":
        raise RecipeError(
            f"--merged: {target}: wanted a .safetensors file", f"--merged {target.with_suffix('.safetensors')}"
        )
    if is_pipeline and (target.suffix == ".safetensors" or target.is_file()):
        raise RecipeError(f"--merged: {target}: wanted a folder for the pipeline", f"--merged {target.with_suffix('')}")
    if is_pipeline and target.is_dir() and any(target.iterdir()):
        raise RecipeError(f"--merged: {target}: there is something in it, wanted a new or empty folder")


def _write_weights(restored: Restored, file: Path) -> None:
    tensors = merged_state_dict(restored.adapted)
    with atomic_path(file) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "medpeft_run": restored.info.run})


def _write_pipeline(restored: RestoredPipeline, record: Record, folder: Path) -> None:
    """Write the pipeline and its card beside the folder, then rename: it is there whole or not at all."""
    from medpeft_cli.models.diffusion import pipeline_of

    tuned = restored.tuned()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise unwritable(folder, error) from error
    for part in (tuned.unet, tuned.vae):
        part.register_to_config(_name_or_path=tuned.title)  # not the folder it came from
    try:
        pipeline_of(tuned).save_pretrained(temporary)
        for tokenizer, name in zip(tuned.tokenizers, ("tokenizer", "tokenizer_2"), strict=False):
            tokenizer.backend_tokenizer.model.save(str(temporary / name))  # vocab.json, merges.txt: for older versions
        write_text(temporary / "README.md", model_card(record, restored.info.pipeline.name, restored.info.size))
        temporary.chmod(0o777 & ~umask())
        temporary.replace(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
