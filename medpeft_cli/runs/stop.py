"""Leave a run politely: SIGTERM and SIGUSR2 set a flag, and the run goes at the next place where nothing is lost.

SLURM sends USR2 before the time limit (`--signal=B:USR2@120`), and TERM for a preemption, a `scancel` and the end of the grace
time. Only at the first of these is the job still RUNNING: by that a job which its user cancelled stays cancelled.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from medpeft_cli.console import console
from medpeft_cli.runs import ranks, slurm

NO_REQUEUE = "MEDPEFT_NO_REQUEUE"  # environment of a process whose parent sees to that
COME_AGAIN = 75  # exit code: not finished, and to be started again

_received: int | None = None  # the last of the signals
_progressed = False  # since the start


class Stopped(SystemExit):
    """The run leaves; its exit code tells why.

    Attributes:
        again: SLURM is asked to start the job again.
    """

    def __init__(self, again: bool, code: int):
        super().__init__(code)
        self.again = again


@contextmanager
def stoppable(*, hangup: bool = False) -> Iterator[None]:
    """Listen to both signals. To be entered before torch is imported, which takes seconds in which they would kill.

    Args:
        hangup: a closed terminal is a SIGTERM too, unless nohup says otherwise.

    Raises:
        Stopped: passed on from within, after SLURM was asked to start the job again where that is due.
    """
    global _received, _progressed
    numbers = [signal.SIGTERM, signal.SIGUSR2]
    if hangup and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    except Stopped as stop:
        if stop.again and (refusal := slurm.requeue(str(slurm.own_job()))):
            console.warn(f"SLURM does not start this job again: {refusal}; submit it again, and the run goes on")
        raise
    finally:
        _received, _progressed = None, False
        for number, handler in before.items():
            signal.signal(number, handler)


def asked_to_leave() -> bool:
    """Tell whether one of the signals has come."""
    return _received is not None


def received() -> int:
    """Return the number of the signal that has come; 0 = none."""
    return _received or 0


def leave_if_asked() -> None:
    """Raise Stopped if one of the signals has come; what is to be kept must be on disk by now.

    Of several processes that train a run together only process 0 does, and the others leave with it.
    """
    if _received is None or ranks.follows() or ranks.here.led:
        return
    job = None if NO_REQUEUE in os.environ else slurm.own_job()
    again = job is not None and (_received == signal.SIGUSR2 or slurm.job_state(job) == "RUNNING")
    raise Stopped(again, COME_AGAIN if again else 128 + _received)


def note_progress() -> None:
    """Note that this start is not in vain: something is kept for the next, or it waited for another process's work."""
    global _progressed
    _progressed = True


def progressed() -> bool:
    """Tell whether this start was not in vain."""
    return _progressed


def receive(number: int, frame: FrameType | None = None) -> None:
    """Take note of a signal."""
    global _received
    _received = number
