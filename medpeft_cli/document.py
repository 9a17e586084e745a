"""Write docs/cli.md from the commands: `python -m medpeft_cli.document > docs/cli.md`.

It reads the commands themselves rather than the text of `--help`, whose layout changes with the version of typer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

INTRODUCTION = """\
# Command line

<!-- Written by `python -m medpeft_cli.document > docs/cli.md`; a test compares. Edit medpeft_cli/cli.py instead. -->

The same text is in `medpeft --help` and `medpeft COMMAND --help`. Results go to stdout, progress, decisions and warnings to
stderr. At a terminal there is a bar; elsewhere, and in a SLURM job, a plain line a minute. `--json`, `--quiet` and
`--verbose` go with every command, before or behind its name.

| Exit code | Meaning |
|---|---|
| 0 | done |
| 1 | a fault of medpeft; the lines above it are the report |
| 2 | arguments or recipe are wrong |
| 3 | data, weights or a record are missing, damaged, or not what the card says |
| 4 | training or scoring failed; what was finished is kept |
| 75 | stopped by a signal, and SLURM is asked to start the job again ([slurm.md](slurm.md)) |
| 143 | stopped by SIGTERM (`scancel`); the same command goes on from the last checkpoint |
| 130 | Ctrl-C; the same command goes on from the last checkpoint |

What each error means: [troubleshooting.md](troubleshooting.md).
"""
COMPLETION = ("install_completion", "show_completion")  # typer's own


def cli_reference() -> str:
    """Return docs/cli.md: every command with its arguments, options, defaults and examples."""
    from typer.main import get_command

    from medpeft_cli.cli import app

    return "\n".join([INTRODUCTION, *_sections(get_command(app), "medpeft")])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown; text is taken literally but for code and links."""
    cells = [[" ".join(cell.replace("|", "\\|").replace("<", "&lt;").split()) for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [header, *cells]]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _sections(command: Any, path: str) -> Iterator[str]:
    """Yield the section of a command and then those of the commands below it."""
    parameters = [parameter for parameter in command.params if parameter.name not in COMPLETION]
    below = getattr(command, "commands", {})
    words = [path, *(["COMMAND"] if below else [])]
    words += [_argument(parameter) for parameter in parameters if parameter.param_type_name == "argument"]
    words += [
        f"{parameter.opts[0]} {parameter.metavar}"
        for parameter in parameters
        if parameter.param_type_name == "option" and parameter.required
    ]
    options = any(parameter.param_type_name == "option" and not parameter.required for parameter in parameters)
    yield f"## {path}\n\n```\n{' '.join(words)}{' [OPTIONS]' if options else ''}\n```\n"
    yield command.help.strip() + "\n"
    if parameters:
        rows = [(_names(parameter), parameter.help, _default(parameter)) for parameter in parameters]
        yield markdown_table(["Argument or option", "Meaning", "Default"], rows) + "\n"
    if below:
        rows = [(f"`{path} {name}`", inner.help.strip().partition("\n")[0]) for name, inner in below.items()]
        yield markdown_table(["Command", "What it does"], rows) + "\n"
    _, _, examples = (command.epilog or "").partition("Examples:\n")
    if examples:
        yield "```\n" + "\n".join(line.strip() for line in examples.splitlines()) + "\n```\n"
    for name, inner in below.items():
        yield from _sections(inner, f"{path} {name}")


def _argument(parameter: Any) -> str:
    name = parameter.metavar + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    names[0] += f" {parameter.metavar}" if parameter.metavar else ""
    return ", ".join(f"`{name}`" for name in names)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if parameter.secondary_opts:  # a pair such as --evaluate/--no-evaluate
        return f"`{(parameter.opts if parameter.default else parameter.secondary_opts)[0]}`"
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"


if __name__ == "__main__":
    print(cli_reference(), end="")
