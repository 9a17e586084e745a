"""How the runs of a sweep stand, by their records alone: no torch, no database, nobody to be asked."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medpeft_cli.errors import DataError
from medpeft_cli.recipe.grid import Cell
from medpeft_cli.report.records import record_files
from medpeft_cli.runs.lock import BusyError, holder, run_lock
from medpeft_cli.runs.record import Record

STATES = ("done", "failed", "running", "to do")


@dataclass(frozen=True)
class Standing:
    """How one run stands.

    Attributes:
        run_dir: its folder, there or not.
        state: one of STATES.
        note: why it failed, who runs it, or what became of its last start.
        seconds: what it took in all, once it is done.
        device_seconds: what it took of each device, one after the other, once it is done; its search left out.
        search_seconds: what all trials of its search took, which the seeds of a cell share.
    """

    run_dir: Path
    state: str
    note: str = ""
    seconds: float | None = None
    device_seconds: float = 0.0
    search_seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return what `--json` says of it."""
        row = {"run": self.run_dir.name, "state": self.state, "note": self.note, "folder": str(self.run_dir)}
        return row | ({"seconds": self.seconds} if self.seconds is not None else {})


@dataclass
class Group:
    """Runs that are counted together: those of one grid, or of one recipe."""

    name: str
    standings: list[Standing] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return its line of a table: how many there are in each state."""
        return {"": self.name, "runs": len(self.standings)} | counts(self.standings)


def standing(run_dir: Path) -> Standing:
    """Tell how the run of a folder stands. A record that cannot be read counts as failed."""
    try:
        if not (run_dir / "record.json").is_file():
            owner = holder(run_dir)
            return Standing(run_dir, "running", str(owner)) if owner else Standing(run_dir, "to do")
        data = Record.read(run_dir).data
    except DataError as error:
        return Standing(run_dir, "failed", error.message)
    except OSError as error:
        return Standing(run_dir, "failed", f"{run_dir}: cannot be read: {error.strerror}")
    status = str(data["status"])
    if status == "finished":
        timing = {name: value for name, value in _numbers(data, "timing").items() if name.endswith("_seconds")}
        own = sum(timing.values()) - timing.get("search_seconds", 0.0)
        processes = _numbers(data, "environment").get("processes", 1)
        searched = _numbers(data, "search").get("seconds", 0.0)
        return Standing(run_dir, "done", "", sum(timing.values()), own * processes, searched)
    if owner := holder(run_dir):
        return Standing(run_dir, "running", str(owner))
    if status == "failed":
        return Standing(run_dir, "failed", (str(data.get("error")).splitlines() or ["no reason given"])[0])
    notes = {"running": "interrupted", "trained": "trained, not scored"}
    return Standing(run_dir, "to do", notes.get(status, status))


def _numbers(data: dict[str, Any], section: str) -> dict[str, float]:
    """Return the fields of a section of a record that are numbers; none where it is damaged."""
    fields = data.get(section)
    return {k: v for k, v in fields.items() if type(v) in (int, float)} if isinstance(fields, dict) else {}


def standings_of(cells: Iterable[Cell], results: Path) -> list[Standing]:
    """Tell how each cell of a grid stands, in their order."""
    return [standing(cell.run_dir(results)) for cell in cells]


def groups_of_results(results: Path) -> list[Group]:
    """Return all runs under a folder by the folder that is around them: their recipe.

    Raises:
        DataError: if there is no such folder.
    """
    groups: dict[str, Group] = {}
    for path in record_files(results):
        name = path.parent.parent.name
        groups.setdefault(name, Group(name)).standings.append(standing(path.parent))
    return list(groups.values())


def groups_of_grid(cells: Sequence[Cell], standings: Sequence[Standing]) -> list[Group]:
    """Return the runs of a grid by the grid files that ask for them; one that two ask for is in both."""
    groups = {cell.grids[0]: Group(cell.grids[0]) for cell in cells}
    for cell, stands in zip(cells, standings, strict=True):
        for name in cell.grids:
            groups.setdefault(name, Group(name)).standings.append(stands)
    return list(groups.values())


def counts(standings: Iterable[Standing]) -> dict[str, int]:
    """Return how many runs are in each state."""
    found = Counter(stands.state for stands in standings)
    return {state: found[state] for state in STATES}


def failures(standings: Iterable[Standing]) -> list[Standing]:
    """Return the runs that failed."""
    return [stands for stands in standings if stands.state == "failed"]


def put_back(standings: Iterable[Standing]) -> tuple[list[Standing], list[DataError]]:
    """Mark failed runs as still to be done; each goes on from its last checkpoint.

    Returns:
        Those that were, and why others cannot be: their records cannot be read. One that works again by now is left alone.

    Raises:
        RunError: if a record cannot be written.
    """
    done, problems = [], []
    for stands in failures(standings):
        try:
            with run_lock(stands.run_dir):
                record = Record.read(stands.run_dir)
                if record.data["status"] == "failed":
                    record.save(status="cancelled", error=None)
                    done.append(stands)
        except BusyError:
            pass
        except DataError as error:
            hint = "use another --results folder, or delete the run's folder to do it from its beginning"
            problems.append(DataError(error.message, hint))
    return done, problems
