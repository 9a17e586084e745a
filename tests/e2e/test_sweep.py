"""Grids that really run: several processes, one that fails, an interruption, and two sweeps over one grid."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import run
from tests.e2e.test_resume import outcome


@pytest.fixture
def write_grid(dataset, write_recipe):
    """Return write(name, method, matrix) -> grid file."""

    def write(name, method, matrix):
        write_recipe(method, stem=f"{name}-{method}")
        (dataset / f"{name}.yaml").write_text(f"recipes: [{name}-{method}.yaml]\nmatrix: {matrix}\n")
        return f"{name}.yaml"

    return write


def start(*arguments, cwd):
    command = [sys.executable, "-m", "medpeft_cli", "sweep", "run", *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_sweeps_share_a_grid_and_a_failure_stops_nobody(dataset, write_grid):
    grid = write_grid("share", "linear", "{train.lr: [3e-3, 1e30], train.epochs: [1, 2]}")
    both = [start(grid, "--results", "share", cwd=dataset) for _ in range(2)]
    said = [process.communicate(timeout=200) for process in both]
    states = json.loads(run("sweep", "status", grid, "--results", "share", "--json", cwd=dataset).stdout)
    assert (states["count"], states["done"], states["failed"]) == (4, 2, 2), said
    starts = [sorted(path.name for path in folder.iterdir()) for folder in (dataset / "share").glob("*/*/starts")]
    assert starts == [["1"]] * 4  # no run was started twice
    assert 4 in [process.returncode for process in both]
    assert any("medpeft sweep retry share.yaml --failed --results share" in err for _, err in said)
    assert all("lr 1e+30" in run["note"] for run in states["runs"] if run["state"] == "failed")
    again = run("sweep", "run", grid, "--results", "share", cwd=dataset)
    assert again.returncode == 4 and "done " not in again.stderr  # the failed ones wait for `retry`


FIFTY = """\
import os, sys, time
from medpeft_cli.cli import app
from medpeft_cli.runs import start  # what else takes time before they meet

run_list, logs = sys.argv[1:]
at = time.time() + 0.5
children = []
for number in range(50):
    if not (pid := os.fork()):
        os.dup2(os.open(f"{logs}/{number}", os.O_CREAT | os.O_WRONLY), 2)
        time.sleep(max(0, at - time.time()))
        for line in range(2):
            app(["sweep", "task", run_list, str((number + line) % 2 + 1)], standalone_mode=False)
        os._exit(0)
    children.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
"""


def test_fifty_processes_that_start_a_grid_at_once_do_each_run_exactly_once(dataset, write_grid, tmp_path):
    grid = write_grid("fifty", "linear", "{seed: [0, 1], train.epochs: [1]}")
    assert run("sweep", "submit", grid, "--results", "fifty", "--dry-run", cwd=dataset).returncode == 0
    words = [sys.executable, "-c", FIFTY, "fifty/sweeps/fifty-1/runs.tsv", str(tmp_path)]
    done = subprocess.run(words, cwd=dataset, stdout=subprocess.PIPE, timeout=200)
    said = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert done.returncode == 0 and len(said) == 50, said
    assert sum(text.count("trained   ") for text in said.values()) == 2, said
    assert sum("nothing to do: " in text for text in said.values()) > 40  # they did meet
    states = json.loads(run("sweep", "status", grid, "--results", "fifty", "--json", cwd=dataset).stdout)
    assert (states["count"], states["done"]) == (2, 2)


def test_ctrl_c_loses_nothing(dataset, write_grid):
    grid = write_grid(
        "stop", "norm", "{seed: [0, 1], train.epochs: [12]}"
    )  # long enough that none ends before both began
    process = start(grid, "--jobs", "2", "--results", "stop", cwd=dataset)
    while len(list((dataset / "stop").glob("*/*/checkpoint/last.pt"))) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    records = [json.loads(path.read_text()) for path in (dataset / "stop").glob("*/*/record.json")]
    assert {record["status"] for record in records} == {"cancelled"}
    assert all("killed" not in path.read_text() for path in (dataset / "stop").glob("*/*/log.txt"))
    done = run("sweep", "run", grid, "--jobs", "2", "--results", "stop", "--json", cwd=dataset)
    assert json.loads(done.stdout)["done"] == 2, done.stderr
    assert "[2/2] done" in done.stderr
    # the same bits as one run alone that was never stopped
    alone = ("finetune", "stop-norm.yaml", "--seed", "1", "--set", "train.epochs=12", "--results", "alone", "--json")
    alone = run(*alone, cwd=dataset)
    (folder,) = (dataset / "stop").glob("*/*-s1-*")
    assert outcome(folder) == outcome(dataset / json.loads(alone.stdout)["run"])


def test_a_run_that_cannot_say_why_it_failed_is_told_by_its_log(dataset, write_grid):
    grid = write_grid("early", "bias", "{data.root: [nowhere]}")
    (dataset / "early").mkdir()
    (dataset / "early/early-bias").touch()  # where its folder should be
    done = run("sweep", "run", grid, "--results", "early", cwd=dataset)
    assert done.returncode == 4 and "cannot be written" in done.stderr
