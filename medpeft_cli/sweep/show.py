"""What the sweep commands print: tables of counts, failures, and the live view of a sweep."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from medpeft_cli.console import console, drawn
from medpeft_cli.sweep.local import Sweep
from medpeft_cli.sweep.plan import TimeLeft
from medpeft_cli.sweep.status import STATES, Group, Standing, counts, failures

MOST_FAILURES = 20  # that are listed; --json has all
REFRESH_SECONDS = 5.0  # of `status --watch`


def duration(seconds: float) -> str:
    """Return a time as people say it: `45 s`, `12 min`, `3.5 h`, `1,200 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.{0 if seconds > 360_000 else 1}f} h"


def sentence(standings: Sequence[Standing]) -> str:
    """Return `90 runs: 12 done, 1 failed, 77 to do`."""
    found = [f"{count:,} {state}" for state, count in counts(standings).items() if count]
    runs = f"{len(standings):,} run{'' if len(standings) == 1 else 's'}"
    return f"{runs}: {', '.join(found)}" if found else "no runs"


def left(time_left: TimeLeft | None) -> str:
    """Return what is known of the time that is left."""
    if time_left is None:
        return "time left: not known before the first run is done"
    if not time_left.seconds:
        return "nothing is left"
    runs = f"{time_left.known:,} finished run{'s' if time_left.known > 1 else ''}"
    return f"time left: about {duration(time_left.seconds)} on one device, judging by {runs}"


def listed_failures(standings: Sequence[Standing], again: str | None) -> list[str]:
    """Return a line for each failed run, with the reason, and the command that puts them back."""
    failed = failures(standings)
    lines = [f"failed  {stands.run_dir.name}: {_printable(stands.note)}" for stands in failed[:MOST_FAILURES]]
    if len(failed) > MOST_FAILURES:
        lines.append(f"… and {len(failed) - MOST_FAILURES:,} more; --json lists all")
    return [*lines, f"try them again: {again}"] if failed and again else lines


def print_status(groups: Sequence[Group], standings: Sequence[Standing], again: str | None) -> None:
    """Print counts by group, who runs what, and why runs failed (stdout)."""
    console.table([group.row() for group in groups], ["", "runs", *STATES])
    for line in _status_lines(standings, again):
        print(line)


def watch(read: Callable[[], tuple[Sequence[Group], Sequence[Standing]]], again: str | None) -> None:
    """Print the status again and again until nothing is running or to be done, or Ctrl-C."""
    if not sys.stdout.isatty():
        while True:
            groups, standings = read()
            print(f"{time.strftime('%H:%M:%S')}  {sentence(standings)}", flush=True)
            if not _open(standings):
                return
            time.sleep(REFRESH_SECONDS)
    from rich.console import Group as Rows
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            groups, standings = read()
            table = drawn([group.row() for group in groups], ["", "runs", *STATES])
            live.update(Rows(table, *map(Text, _status_lines(standings, again))), refresh=True)
            if not _open(standings):
                return
            time.sleep(REFRESH_SECONDS)


@contextmanager
def live_view(sweep: Sweep, title: str) -> Iterator[Callable[[], None]]:
    """Show a sweep while it runs (stderr): a table at a terminal, elsewhere a line for each run that ends."""
    total, started = len(sweep.todo), time.monotonic()
    if console.quiet:
        yield lambda: None
    elif sys.stderr.isatty():
        from rich.console import Console as Rich
        from rich.live import Live

        with Live(console=Rich(stderr=True), auto_refresh=False, vertical_overflow="ellipsis") as live:
            yield lambda: live.update(_picture(sweep, title, total, started), refresh=True)
    else:
        seen = 0

        def show() -> None:
            nonlocal seen
            for stands in sweep.ended[seen:]:
                seen += 1
                told = duration(stands.seconds) if stands.seconds is not None else _printable(stands.note)
                console.say(f"[{seen}/{total}] {stands.state:6}  {stands.run_dir.name}  {told}")

        yield show
        show()


def _picture(sweep: Sweep, title: str, total: int, started: float) -> Any:
    """Return the live table: a line that counts, and a row for each run that is being done."""
    from rich.console import Group as Rows
    from rich.text import Text

    now = time.monotonic()
    parts = [f"{title}  {sentence(sweep.ended).partition(': ')[2] or 'none ended yet'}", f"{len(sweep.todo):,} waiting"]
    parts += [f"{len(sweep.elsewhere):,} elsewhere"] if sweep.elsewhere else []
    parts += [str(timedelta(seconds=round(now - started)))]
    if sweep.seconds:
        mean, at_once = sum(sweep.seconds) / len(sweep.seconds), len(sweep.jobs) + len(sweep.free)
        parts.append(f"about {duration(mean * (len(sweep.todo) + len(sweep.jobs)) / at_once)} left")
    rows = [
        {
            "run": job.run_dir.name,
            "device": job.device,
            "for": duration(now - job.started),
            "last line of its log.txt": _printable(job.last_line).removeprefix(f"{job.run_dir.name}: ")[:80],
        }
        for job in sweep.jobs
    ]
    return Rows(
        Text(" · ".join(parts), style="bold"), drawn(rows, ["run", "device", "for", "last line of its log.txt"])
    )


def _status_lines(standings: Sequence[Standing], again: str | None) -> list[str]:
    running = [stands for stands in standings if stands.state == "running"]
    lines = [f"running  {stands.run_dir.name}: {_printable(stands.note)}" for stands in running[:MOST_FAILURES]]
    return [sentence(standings), *lines, *listed_failures(standings, again)]


def _open(standings: Sequence[Standing]) -> bool:
    return any(stands.state in ("running", "to do") for stands in standings)


def _printable(text: str) -> str:
    """Return text without what could drive the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def retry_command(path: Path, overrides: Sequence[str] | None, results: Path, demo: bool) -> str:
    """Return the command that puts the failed runs of a grid back."""
    import shlex

    words = ["medpeft", "sweep", "retry", str(path), "--failed", *(f"--set={setting}" for setting in overrides or ())]
    words += ["--demo"] if demo else []
    return shlex.join(words + ([] if results == Path("results") else ["--results", str(results)]))
