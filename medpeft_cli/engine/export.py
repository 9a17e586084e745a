"""Write a tuned backbone as plain timm weights."""

from pathlib import Path

from safetensors.torch import save_file

from medpeft_cli.engine.restore import restore_adapter
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.files import atomic_path
from medpeft_cli.methods.merge import merged_state_dict


def export_merged(run_dir: Path, file: Path, weights: Path | None = None) -> None:
    """Fold the adapter of a run into its backbone and write a safetensors state dict.

    `timm.create_model(name, num_classes=K, **options).load_state_dict(load_file(file))` gives the same logits.

    Args:
        run_dir: a trained run.
        file: .safetensors file to write.
        weights: where the backbone's local weights are now; None = where they were.

    Raises:
        DataError: if the run has no adapter, or `file` is not a .safetensors path.
        RecipeError: if the method cannot be merged.
    """
    if file.suffix != ".safetensors":
        raise RecipeError(
            f"--merged: {file}: wanted a .safetensors file", f"--merged {file.with_suffix('.safetensors')}"
        )
    if not (run_dir / "adapter").is_dir():
        raise DataError(
            f"{run_dir}: no adapter folder; the run is not trained yet", "medpeft finetune the recipe first"
        )
    restored = restore_adapter(run_dir / "adapter", weights)
    tensors = merged_state_dict(restored.adapted)
    with atomic_path(file) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "medpeft_run": restored.info.run})
