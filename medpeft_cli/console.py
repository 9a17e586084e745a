"""Results go to stdout; progress, decisions and warnings to stderr. A bar at a terminal, quiet lines elsewhere."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from medpeft_cli.errors import MedpeftError

LONGEST_LIST = 9  # of a cell of a table; of a longer one its beginning
LOG_SECONDS = 60.0  # between two progress lines where the output is no terminal

Advance = Callable[..., None]


class Console:
    """What the global options decide, and the few ways to speak to the user."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.json = False
        self._muted = False

    def mute(self) -> None:
        """Say nothing any more but errors: another process of the run speaks."""
        self.quiet = self._muted = True
        self.verbose = False

    def say(self, text: str) -> None:
        """Tell what was decided (stderr; silent with --quiet)."""
        if not self.quiet:
            print(visible(text), file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Tell where something came from (stderr; only with --verbose)."""
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Tell what the user should know even with --quiet (stderr)."""
        if not self._muted:
            print(f"warning: {visible(text)}", file=sys.stderr, flush=True)

    def error(self, error: MedpeftError) -> None:
        """Print an error and its hint (stderr)."""
        print(f"error: {visible(error.message)}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {visible(error.hint)}", file=sys.stderr, flush=True)

    def result(self, data: Any, text: str | None = None) -> None:
        """Print a command's result (stdout): `data` as JSON with --json, else `text`."""
        if self.json:
            print(json.dumps(data, indent=2, allow_nan=False))
        elif text:
            print(text)

    def table(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        """Print rows as a table (stdout), or as JSON with --json."""
        if self.json:
            print(json.dumps(rows, indent=2, allow_nan=False))
            return
        from rich.console import Console as Rich

        Rich(width=None if sys.stdout.isatty() else 200, highlight=False).print(drawn(rows, columns))

    @contextmanager
    def progress(self, total: int, label: str, unit: str) -> Iterator[Advance]:
        """Show the progress of `total` units; yields `advance(count=1, note=None, resumed=False)`.

        `resumed` units were done by an earlier start and do not count for the rate.
        """
        if self.quiet:
            yield lambda count=1, note=None, resumed=False: None
        elif sys.stderr.isatty() and "SLURM_JOB_ID" not in os.environ:
            with _bar(total, label, unit) as advance:
                yield advance
        else:
            lines = _Lines(total, label, unit)
            try:
                yield lines.advance
            finally:
                lines.print()


def visible(text: str) -> str:
    """Return a text with its control characters written out: names in the data must not steer the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def drawn(rows: list[dict[str, Any]], columns: list[str]) -> Any:
    """Return rows as a rich table; numbers stand to the right, text from data is never read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        numbers = all(isinstance(row.get(column), int) for row in rows)
        table.add_column(column, overflow="fold", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(_plain(row.get(column))) for column in columns))
    return table


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        if len(value) > LONGEST_LIST:
            return f"{len(value)}: {', '.join(map(str, value[:3]))}, …"
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@contextmanager
def _bar(total: int, label: str, unit: str) -> Iterator[Advance]:
    """Show an animated bar with rate and remaining time."""
    from rich.console import Console as Rich
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task):  # noqa: ANN001, ANN202
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "")

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), Rate(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Rich(stderr=True)) as bar:
        task = bar.add_task(label, total=total, note="")

        def advance(count: int = 1, note: str | None = None, resumed: bool = False) -> None:
            if resumed:
                bar.reset(task, completed=count)
            else:
                bar.update(task, advance=count, **({} if note is None else {"note": note}))

        yield advance


class _Lines:
    """A plain line now and then, for log files."""

    def __init__(self, total: int, label: str, unit: str):
        self.total, self.label, self.unit = total, label, unit
        self.done = self.resumed = 0
        self.note = ""
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None, resumed: bool = False) -> None:
        self.done += count
        self.resumed += count if resumed else 0
        self.note = self.note if note is None else note
        if time.monotonic() - self.last >= LOG_SECONDS and self.done < self.total:
            self.print()

    def print(self) -> None:
        self.last = time.monotonic()
        seconds = self.last - self.start
        rate = (self.done - self.resumed) / max(seconds, 1e-9)
        shown = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        if rate:
            left = f"{(self.total - self.done) / rate:,.0f} s left"
            pace = [f"{shown} {self.unit}/s", f"{seconds:,.0f} s" if self.done >= self.total else left]
        else:
            pace = ["done before" if self.done >= self.total else "waiting"]
        parts = [f"{self.label}: {self.done:,}/{self.total:,}", *pace, self.note]
        print(" · ".join(filter(None, parts)), file=sys.stderr, flush=True)


console = Console()
