"""A signal sets a flag; where the run leaves, SLURM's word decides whether the job is started again."""

import os
import signal

import pytest

from medpeft_cli.runs.stop import Stopped, asked_to_leave, leave_if_asked, stoppable

TERM, USR2 = signal.SIGTERM, signal.SIGUSR2


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return slurm(state, refusal="") -> file of what scontrol was asked; the process is then in job 4711."""

    def stand_in(state, refusal=""):
        asked = tmp_path / "asked"
        refuses = f"echo {refusal!r} >&2; exit 1" if refusal else ""
        for tool, does in (("squeue", f"echo {state}"), ("scontrol", f'echo "$@" >> {asked}; {refuses}')):
            (tmp_path / tool).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / tool).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "4711")
        return asked

    return stand_in


def leave(number):
    """Send this process a signal and return the exit code with which it would leave."""
    with pytest.raises(Stopped) as stop, stoppable():
        leave_if_asked()
        os.kill(os.getpid(), number)
        assert asked_to_leave()
        leave_if_asked()
    return stop.value.code


@pytest.mark.parametrize("number", [TERM, USR2])
def test_outside_slurm_the_exit_code_names_the_signal(monkeypatch, number):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert leave(number) == 128 + number


@pytest.mark.parametrize(
    ("number", "state", "again"),
    [
        (USR2, "RUNNING", True),  # the time limit is near
        (TERM, "RUNNING", True),  # preempted: the grace time begins
        (TERM, "COMPLETING", False),  # scancel, or the end of the grace time
        (TERM, "", False),
    ],
)
def test_a_job_is_started_again_unless_its_user_ended_it(slurm, number, state, again):
    asked = slurm(state)
    assert leave(number) == (75 if again else 143)
    assert asked.exists() == again
    assert not again or asked.read_text() == "requeue 4711\n"


def test_slurms_refusal_is_shown(slurm, capsys):
    slurm("RUNNING", "Requested operation is presently disabled for job 4711")
    assert leave(USR2) == 75
    assert "presently disabled for job 4711; submit it again" in capsys.readouterr().err


def test_a_closed_terminal_is_heard_where_that_is_asked_for_unless_it_is_ignored():
    before = signal.getsignal(signal.SIGHUP)
    try:
        with pytest.raises(Stopped) as stop, stoppable(hangup=True):
            os.kill(os.getpid(), signal.SIGHUP)
            leave_if_asked()
        assert stop.value.code == 129 and signal.getsignal(signal.SIGHUP) == before
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        with stoppable(hangup=True):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked_to_leave()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_afterwards_the_signals_do_what_they_did_before():
    before = [signal.getsignal(number) for number in (TERM, USR2)]
    with stoppable():
        assert signal.getsignal(TERM) != before[0]
    assert [signal.getsignal(number) for number in (TERM, USR2)] == before
    assert not asked_to_leave()
