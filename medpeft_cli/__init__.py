"""Parameter-efficient fine-tuning for medical images.

from medpeft_cli import load_adapter
tuned = load_adapter("results/isic_ssf/<run>/adapter")     # tuned.model(tuned.preprocess("a.png")), tuned.classes
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medpeft_cli.engine.restore import restore_adapter as load_adapter

__all__ = ["load_adapter"]


def __getattr__(name: str):  # noqa: ANN202
    """Import torch only when an adapter is asked for."""
    if name == "load_adapter":
        from medpeft_cli.engine.restore import restore_adapter

        return restore_adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
