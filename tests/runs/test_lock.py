"""A run has one owner at a time, wherever it runs, and a dead one is in nobody's way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, replace

import pytest

from medpeft_cli.errors import RunError
from medpeft_cli.runs import lock
from medpeft_cli.runs.lock import holder, run_lock
from medpeft_cli.runs.stop import Stopped, stoppable

HOLD = "import sys, time; from pathlib import Path; from medpeft_cli.runs import lock; run_lock = lock.run_lock\n{}\n"
HOLD += "with run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
GRID = """\
import os, sys, time
from pathlib import Path
from medpeft_cli.errors import RunError
from medpeft_cli.runs.lock import run_lock

folder = Path(sys.argv[1])
gate = folder / "gate"
for _ in range(49):
    if not os.fork():
        break
(folder / f"ready-{os.getpid()}").touch()
while not gate.exists():
    if len(list(folder.glob("ready-*"))) >= 50:
        gate.touch()
    time.sleep(0.01)
for run in [folder / f"run{i}" for i in range(12)]:
    try:
        with run_lock(run):
            if not (run / "finished").exists():
                with (run / "started").open("a") as file:
                    file.write(f"{os.getpid()}\\n")
                time.sleep(0.01)
                (run / "finished").touch()
    except RunError:
        pass
(folder / f"done-{os.getpid()}").touch()
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Return start(**changes): write that another machine has started the run."""

    def start(**changes):
        (tmp_path / "starts").mkdir()
        owner = replace(lock._me(), host="node7", machine="another", pid=1, **changes)
        (tmp_path / "starts/1").write_text(json.dumps(asdict(owner)))

    return start


def child(folder, before=""):
    command = [sys.executable, "-c", HOLD.format(before), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def age(folder, seconds):
    then = time.time() - seconds
    os.utime(folder / "starts/1", (then, then))


def test_a_run_that_is_held_is_refused_and_free_again_afterwards(tmp_path):
    with run_lock(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
        words = f"another process is working on this run: process {os.getpid()} on"
        with pytest.raises(RunError, match=words), run_lock(tmp_path):
            pass
    assert holder(tmp_path) is None
    with run_lock(tmp_path):
        assert sorted(path.name for path in (tmp_path / "starts").iterdir()) == ["1", "2"]


def test_a_process_that_was_killed_is_no_owner(tmp_path):
    process = child(tmp_path)
    with pytest.raises(RunError, match=f"process {process.pid}"), run_lock(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    while holder(tmp_path):  # until it is a zombie, which is dead enough
        time.sleep(0.01)
    with run_lock(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
    end(process)


def test_another_process_with_the_number_of_a_dead_owner_is_not_the_owner(tmp_path):
    (tmp_path / "starts").mkdir()
    owner = asdict(lock._me())
    (tmp_path / "starts/1").write_text(json.dumps(owner | {"born": owner["born"] - 1}))
    with run_lock(tmp_path):
        assert holder(tmp_path).pid == os.getpid()


def test_an_owner_on_another_machine_is_believed_while_it_gives_signs_of_life(tmp_path, elsewhere):
    elsewhere()
    age(tmp_path, 200)
    assert holder(tmp_path).host == "node7"
    with pytest.raises(RunError, match="process 1 on node7"), run_lock(tmp_path):
        pass


@pytest.mark.parametrize("clock", [3600, -3600])  # an owner that died, or a clock that jumped
def test_without_them_it_is_watched_and_then_believed_dead(tmp_path, elsewhere, monkeypatch, clock):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.01)
    elsewhere()
    age(tmp_path, clock)
    assert holder(tmp_path) is None
    with run_lock(tmp_path):
        assert holder(tmp_path).pid == os.getpid()


def test_one_that_gives_a_sign_of_life_while_watched_is_alive(tmp_path, elsewhere, monkeypatch):
    elsewhere()
    age(tmp_path, 3600)
    monkeypatch.setattr(lock.time, "sleep", lambda _: age(tmp_path, 0))
    with pytest.raises(RunError, match="node7"), run_lock(tmp_path):
        pass


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with run_lock(tmp_path):
        age(tmp_path, 1000)
        end_of_patience = time.monotonic() + 10
        while time.time() - (tmp_path / "starts/1").stat().st_mtime > 500:
            assert time.monotonic() < end_of_patience


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return answers(squeue): SLURM of the cluster `here`, whose squeue knows job 4711 and does that."""

    def answers(squeue):
        for name, script in {
            "squeue": f'[ "$3" = 4711 ] || exit 1\n{squeue}',
            "scontrol": "echo ClusterName = here",
        }.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return answers


@pytest.mark.parametrize(
    ("state", "silent", "free"),
    [
        ("", 0, True),
        ("PENDING", 0, True),
        ("RUNNING", 0, False),
        ("RUNNING", 3600, True),
        ("SUSPENDED", 3600, False),
        ("STOPPED", 3600, False),
    ],
)
def test_slurm_knows_whether_the_job_of_an_owner_runs(tmp_path, elsewhere, slurm, monkeypatch, state, silent, free):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.01)
    slurm(f"echo {state}")
    elsewhere(job="4711", cluster="here")
    age(tmp_path, silent)
    if free:
        with run_lock(tmp_path):
            assert holder(tmp_path).pid == os.getpid()
    else:
        with pytest.raises(RunError, match="node7, job 4711"), run_lock(tmp_path):
            pass


def test_a_job_of_another_cluster_is_not_asked_after_here(tmp_path, elsewhere, slurm):
    slurm("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    elsewhere(job="4711", cluster="there")
    with pytest.raises(RunError, match="node7, job 4711"), run_lock(tmp_path):
        pass


def test_a_job_that_is_about_to_end_is_waited_for(tmp_path, elsewhere, slurm, monkeypatch):
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.01)
    slurm(f"echo look >> {tmp_path}/looks; [ $(wc -l < {tmp_path}/looks) = 3 ] || echo COMPLETING")
    elsewhere(job="4711")
    with run_lock(tmp_path):
        assert holder(tmp_path).pid == os.getpid()


def test_a_job_that_was_requeued_takes_over_from_itself(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    elsewhere()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with run_lock(tmp_path):
        assert holder(tmp_path).restart == 1


def test_one_that_was_taken_for_dead_ends_itself(tmp_path):
    process = child(tmp_path, "lock.BEAT_SECONDS = 0.1")
    process.send_signal(signal.SIGSTOP)  # frozen, and given up by another machine
    (tmp_path / "starts/2").write_text("")
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) == RunError.exit_code
    assert "another has taken over" in process.stderr.read()
    end(process)


def test_waiting_ends_with_the_owner(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.01)
    process = child(tmp_path)
    threading.Timer(0.2, process.kill).start()
    with run_lock(tmp_path, wait=True):
        assert holder(tmp_path).pid == os.getpid()
    assert f"waiting for process {process.pid} on" in capsys.readouterr().err
    end(process)


def test_a_signal_ends_the_waiting(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.01)
    elsewhere()
    with pytest.raises(Stopped), stoppable():
        os.kill(os.getpid(), signal.SIGUSR2)
        with run_lock(tmp_path, wait=True):
            pass


def test_signs_of_life_are_judged_by_the_clock_of_the_file_system(tmp_path, elsewhere, monkeypatch):
    elsewhere()
    ours = time.time
    monkeypatch.setattr(lock, "_clocks", {})
    monkeypatch.setattr(lock.time, "time", lambda: ours() + 3600)
    assert holder(tmp_path).host == "node7"
    assert sorted(path.name for path in (tmp_path / "starts").iterdir()) == ["1"]


def test_the_owner_of_half_a_file_is_believed_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.01)
    (tmp_path / "starts").mkdir()
    (tmp_path / "starts/1").write_text("")
    with pytest.raises(RunError, match="it has just started"), run_lock(tmp_path):
        pass
    age(tmp_path, 1000)
    with run_lock(tmp_path):
        pass


def test_fifty_processes_do_every_run_exactly_once(tmp_path):
    process = subprocess.run([sys.executable, "-c", GRID, str(tmp_path)], timeout=60, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    while len(list(tmp_path.glob("done-*"))) < 50:
        time.sleep(0.05)
    runs = [tmp_path / f"run{i}" for i in range(12)]
    assert [len((run / "started").read_text().split()) for run in runs] == [1] * 12
    owners = Counter((run / "started").read_text() for run in runs)
    assert len(owners) > 1, "one process did everything"
