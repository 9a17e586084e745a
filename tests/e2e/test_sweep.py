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
