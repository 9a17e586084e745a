"""One process works on a run: a lock of plain files that holds on shared file systems and does not outlive its owner.

Every start of a run has a number: `starts/1`, `starts/2`, … in the run's folder. To start is to create the next number once the
start before is over. A file is created by one process only, also on NFS and Lustre, so of many starts at once one wins. Nothing
is deleted afterwards: a process that looked long ago finds its number taken.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from medpeft_cli.console import console
from medpeft_cli.errors import RunError
from medpeft_cli.files import unwritable
from medpeft_cli.runs import slurm
from medpeft_cli.runs.stop import leave_if_asked, note_progress

BEAT_SECONDS = 30.0  # between two signs of life: the time of the file
STALE_SECONDS = 300.0  # without a sign of life before an owner on another machine is watched
WATCH_SECONDS = 100.0  # without one while it is watched, whatever the clocks say: it is dead
ENDING_SECONDS = 120.0  # that a job is given to end
LOOK_SECONDS = 1.0  # between two looks while waiting

_clocks: dict[int, float] = {}  # of file systems by device: their time less that of time.monotonic


class BusyError(RunError):
    """Another process works on the run."""


@dataclass(frozen=True)
class Owner:
    """A process that started a run.

    Attributes:
        host: name of the machine.
        machine: its boot and process-number space; within one, numbers can be looked up.
        pid: process number.
        born: when the process started, in clock ticks since boot, as its number may be given out again; None = not told.
        job: SLURM job; None = none.
        restart: how often that job was requeued before.
        cluster: SLURM's name for the cluster of that job.
    """

    host: str
    machine: str
    pid: int
    born: int | None
    job: str | None
    restart: int
    cluster: str | None = None

    def __str__(self) -> str:
        """Return `process 17 on node3, job 4711`."""
        return f"process {self.pid} on {self.host}" + (f", job {self.job}" if self.job else "")


@contextmanager
def run_lock(run_dir: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a run directory, or another folder, against every other process, on whichever machine.

    Args:
        run_dir: the folder; made if missing.
        wait: for another process that holds it.

    Raises:
        BusyError: if another process holds it, and this one is not to wait.
        Stopped: if a signal asks this process to leave while it waits.
        RunError: if the folder cannot be written.
    """
    path = _awaited_start(run_dir) if wait else _start(run_dir / "starts")
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        with suppress(OSError):  # nobody is in the way of the next start: this process ends
            path.write_text("{}")


def holder(run_dir: Path) -> Owner | None:
    """Return who works on a run, as far as can be told at once; None = nobody."""
    folder = run_dir / "starts"
    path = folder / str(_newest(folder))
    try:
        owner = _read(path)
        if owner is None or not (_runs_here(owner) if _is_here(owner) else _has_beaten(path)):
            return None
    except OSError:
        return None
    return owner


def _awaited_start(run_dir: Path) -> Path:
    """Create the next number of a folder's starts once nobody holds it any more, and return its file."""
    told = False
    while True:
        owner = holder(run_dir)  # looks at files alone; `_start` may ask SLURM
        if not owner:
            with suppress(BusyError):
                return _start(run_dir / "starts")
        if not told:
            console.say(f"waiting for {owner or 'another process'}, which works in {run_dir}")
        told = True
        note_progress()
        leave_if_asked()
        time.sleep(LOOK_SECONDS)


def _start(folder: Path) -> Path:
    """Create the next number of a run's starts, and return its file."""
    me = _me()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = _newest(folder)
        while True:
            if number and _works(folder / str(number), me):
                owner = _read(folder / str(number)) or "it has just started"
                raise BusyError(
                    f"{folder.parent}: another process is working on this run: {owner}", "wait for it, or stop it first"
                )
            path = folder / str(number + 1)
            try:
                file = path.open("x")  # noqa: SIM115
            except FileExistsError:
                number += 1
                continue
            with file:
                try:
                    file.write(json.dumps(asdict(me)))
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:  # a full disk
                    path.unlink(missing_ok=True)
                    raise
            return path
    except OSError as error:
        raise unwritable(folder, error) from error


def _newest(folder: Path) -> int:
    """Return the number of the last start; 0 = none."""
    try:
        return max((int(name) for name in os.listdir(folder) if name.isdigit()), default=0)  # noqa: PTH208
    except OSError:
        return 0


def _read(path: Path) -> Owner | None:
    """Return the process that made a start; None if the start is over, or not yet written."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        return None


def _works(path: Path, me: Owner) -> bool:
    """Tell whether the owner of a start is still there; asks SLURM, or watches for signs of life, where it is elsewhere."""
    owner = _read(path)
    if owner is None and path.read_text().strip() == "{}":
        return False
    if owner is not None:
        if _is_here(owner):
            return _runs_here(owner)
        if owner.job and (owner.job, owner.cluster) == (me.job, me.cluster) and owner.restart < me.restart:
            return False  # this very job, before it was requeued
        state = _state_of_job(owner)
        if state in slurm.HALTED:
            return True  # it cannot give signs of life
        if state is not None and state not in slurm.WORKING:
            return False
    if _has_beaten(path):
        return True
    before = _time_of(path)
    console.say(f"{path.parent.parent}: {owner or 'its owner'} shows no sign of life; watching for {WATCH_SECONDS:g} s")
    end = time.monotonic() + WATCH_SECONDS
    while _time_of(path) == before and time.monotonic() < end:
        leave_if_asked()
        time.sleep(LOOK_SECONDS)
    return _time_of(path) != before


def _state_of_job(owner: Owner) -> str | None:
    """Return SLURM's word for an owner's job, None if it has none to say; waits a little for a job that is about to end."""
    if not owner.job or owner.cluster not in (None, slurm.this_cluster()):
        return None  # another cluster's SLURM may know another job by that number
    end = time.monotonic() + ENDING_SECONDS
    while (state := slurm.job_state(owner.job)) == "COMPLETING" and time.monotonic() < end:
        leave_if_asked()
        time.sleep(LOOK_SECONDS)
    return state


def _me() -> Owner:
    pid = os.getpid()
    job, cluster = slurm.own_job(), slurm.own_cluster()
    return Owner(platform.node(), _machine(), pid, _born(pid), job, slurm.own_restart(), cluster)


def _machine() -> str:
    """Return what tells this machine, its boot and its container from all others; the name alone where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return platform.node()


def _is_here(owner: Owner) -> bool:
    return owner.machine == _machine()


def _runs_here(owner: Owner) -> bool:
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return _born(owner.pid) in (owner.born, None)


def _born(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since boot; −1 if it has ended, None if that is not told."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if state == "Z" else int(fields[18])


def _beat(path: Path, ended: threading.Event) -> None:
    """Give signs of life, until the start is over; end this process if another has taken it for dead and gone on."""
    following = path.with_name(str(int(path.name) + 1))
    while not ended.wait(BEAT_SECONDS):
        if following.exists():
            console.error(
                RunError(f"{path.parent.parent}: this process was not heard of for so long that another has taken over")
            )
            os._exit(RunError.exit_code)
        with suppress(OSError):
            os.utime(path)


def _has_beaten(path: Path) -> bool:
    return abs(_now_of(path.parent) - _time_of(path)) < STALE_SECONDS


def _time_of(path: Path) -> float:
    """Return the time of a file as its server has it: opening asks the server, where the system may remember."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime


def _now_of(folder: Path) -> float:
    """Return the present time by the clock of the file system, which need not be this machine's."""
    device = folder.stat().st_dev
    if device not in _clocks:
        probe = folder / f".clock-{platform.node()}-{os.getpid()}"
        try:
            probe.touch()
            _clocks[device] = _time_of(probe) - time.monotonic()
        except OSError:  # not writable for one who only looks
            _clocks[device] = time.time() - time.monotonic()
        with suppress(OSError):
            probe.unlink()
    return _clocks[device] + time.monotonic()
