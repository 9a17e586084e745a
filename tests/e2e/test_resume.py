"""A run that is killed with SIGKILL and started again ends with the record of one that never stopped."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import run


def outcome(folder):
    """What must be bit-equal: history, selection, delta and metrics, but no times."""
    record = json.loads((folder / "record.json").read_text())
    history = (folder / "history.jsonl").read_text()
    predictions = (folder / "predictions.csv").read_text()
    return history, predictions, record["selection"], record["metrics"], record["delta"]["sha256"], record["status"]


def finetune_and_kill(recipe, cwd, results, checkpoints):
    """Start a run and kill -9 it after so many new checkpoints; True if it was still alive."""
    command = [sys.executable, "-m", "medpeft_cli", "finetune", str(recipe), "--results", results]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    seen, last = 0, None
    while process.poll() is None and seen < checkpoints:
        found = [path.stat().st_mtime_ns for path in (cwd / results).glob("*/*/checkpoint/last.pt")]
        if found and found[0] != last:
            seen, last = seen + (last is not None or checkpoints == 1), found[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("method", ["norm", "adalora"])  # moving statistics; peft with a schedule
def test_killed_anywhere_the_result_is_the_same(dataset, write_recipe, method):
    recipe = write_recipe(method, stem=f"resume-{method}")
    whole = run("finetune", recipe, "--results", f"whole-{method}", "--json", cwd=dataset)
    assert whole.returncode == 0, whole.stderr
    killed = [finetune_and_kill(recipe, dataset, f"killed-{method}", checkpoints) for checkpoints in (1, 2, 3)]
    assert any(killed), "no start was killed before it ended"
    resumed = run("finetune", recipe, "--results", f"killed-{method}", "--json", cwd=dataset)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(dataset / json.loads(resumed.stdout)["run"]) == outcome(dataset / json.loads(whole.stdout)["run"])


def finetune_and_signal(recipe, cwd, results, number, **environment):
    """Start a run, send a signal at its next checkpoint, and return exit code and stderr."""
    command = [sys.executable, "-m", "medpeft_cli", "finetune", str(recipe), "--results", results]
    found = lambda: [path.stat().st_mtime_ns for path in (cwd / results).glob("*/*/checkpoint/last.pt")]  # noqa: E731
    before = found()
    process = subprocess.Popen(
        command, cwd=cwd, env=os.environ | environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while process.poll() is None and found() in (before, []):
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate()
    return process.returncode, said


def test_a_signal_ends_a_run_at_a_checkpoint_and_nothing_is_lost(dataset, write_recipe, tmp_path):
    recipe = write_recipe("norm", stem="signal")
    whole = run("finetune", recipe, "--results", "signal-whole", "--json", cwd=dataset)
    for tool, does in (("squeue", "echo COMPLETING"), ("scontrol", f'echo "$@" > {tmp_path}/asked')):
        (tmp_path / tool).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / tool).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "99", "SLURM_ARRAY_JOB_ID": "99", "SLURM_ARRAY_TASK_ID": "3"}
    slurm["PATH"] = f"{tmp_path}:{os.environ['PATH']}"

    def status():
        (path,) = (dataset / "signal").glob("*/*/record.json")
        record = json.loads(path.read_text())
        assert "idle_starts" not in record  # each got further
        return record["status"]

    code, said = finetune_and_signal(recipe, dataset, "signal", signal.SIGUSR2, **slurm)
    assert (code, status()) == (75, "running"), said
    assert (tmp_path / "asked").read_text() == "requeue 99_3\n"  # its own task, not the whole array
    (tmp_path / "asked").unlink()
    code, said = finetune_and_signal(recipe, dataset, "signal", signal.SIGTERM, **slurm)
    assert (code, status()) == (143, "cancelled"), said  # scancel: the job is completing
    assert not (tmp_path / "asked").exists()
    resumed = run("finetune", recipe, "--results", "signal", "--json", cwd=dataset)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(dataset / json.loads(resumed.stdout)["run"]) == outcome(dataset / json.loads(whole.stdout)["run"])


def test_the_same_recipe_gives_the_same_bits_whatever_the_thread_count_of_the_loader(dataset, write_recipe):
    recipe = write_recipe("bias", stem="threads")
    runs = []
    for workers in (1, 3):
        done = run("finetune", recipe, "--results", f"w{workers}", "--set", f"workers={workers}", "--json", cwd=dataset)
        assert done.returncode == 0, done.stderr
        runs.append(outcome(dataset / json.loads(done.stdout)["run"]))
    assert runs[0] == runs[1]


def test_two_processes_do_not_work_on_one_run(dataset, write_recipe):
    from medpeft_cli.recipe.identity import run_id
    from medpeft_cli.recipe.load import load_recipe
    from medpeft_cli.runs.lock import run_lock

    recipe = write_recipe("bias", stem="locked")
    with run_lock(dataset / "locked-results" / "locked" / run_id(load_recipe(recipe).recipe)):
        done = run("finetune", recipe, "--results", "locked-results", cwd=dataset)
    assert done.returncode == 4 and "another process is working on this run" in done.stderr
