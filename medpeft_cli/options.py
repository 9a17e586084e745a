"""What several commands share: options, and the form of their examples."""

from pathlib import Path
from typing import Annotated

import typer

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of the recipe (of a grid: of all its recipes), such as train.epochs=10. Repeatable.",
    ),
]
Demo = Annotated[bool, typer.Option("--demo", help="Synthetic data and bundled weights instead: no download, no GPU.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="PATH", help="Where the backbone's local weights, or the pipeline, are now, if moved."
    ),
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder that holds all runs.")]


def examples(*commands: str) -> str:
    """Return an epilog that shows each command on a line of its own (click's mark for that is \\b)."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)
