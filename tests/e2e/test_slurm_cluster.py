"""Twenty runs on a real SLURM through everything that can happen to a job; the records are those of runs left in peace.

Needs a cluster that answers, its partitions `low` (preempted, requeued) and `high`, and the right to take its node down.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import RECIPE, run
from tests.e2e.test_resume import outcome

RUNS = 20
PATIENCE = 1200  # seconds for each wait


def answers() -> bool:
    return bool(shutil.which("sinfo")) and subprocess.run(["sinfo"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(2 * PATIENCE),
    pytest.mark.skipif(not answers(), reason="no SLURM answers here (sinfo)"),
]


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def until(condition, what: str):
    """Return the first true value of a condition."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.3)
    return value


@pytest.fixture
def sweep(dataset, monkeypatch):
    """Return sweep(verb, *options) -> what `medpeft sweep VERB grid …` says on stdout; runs are three seconds and more."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = RECIPE.format(card=dataset / "shapes.yaml", root=dataset / "data", method="norm")
    (dataset / "cluster.yaml").write_text(recipe.replace("epochs: 4", "epochs: 40"))
    (dataset / "twenty.yaml").write_text(f"recipes: [cluster.yaml]\nmatrix: {{seed: {list(range(RUNS))}}}\n")

    def call(verb, *options):
        done = run("sweep", verb, "twenty.yaml", *options, cwd=dataset, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_twenty_runs_survive_everything(dataset, sweep):
    results = dataset / "results"

    def working() -> tuple[str, dict]:
        """Return job and owner of a run that has trained for a while and that nothing has happened to yet."""

        def look():
            for start in results.glob("*/*/starts/1"):
                if (start.parents[1] / "checkpoint/last.pt").exists():
                    owner = json.loads(start.read_text())
                    if owner and owner["job"] not in met and not (start.parent / "2").exists():
                        return owner
            return None

        owner = until(look, "no run is being trained")
        met.add(owner["job"])
        return owner["job"], owner

    def asked_again() -> int:
        logs = (path.read_text() for path in results.glob("sweeps/*/log/*"))
        return sum(text.count("SLURM is asked to start it again") for text in logs)

    def over() -> bool:
        return not slurm("squeue", "-h", "--me")

    met: set[str] = set()
    sweep("submit", "--partition", "low", "--time", "10:00")
    job, _ = working()  # a signal; without the time-out scancel would send it again to the restarted job
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", "-b", "-s", "USR2", job], timeout=1, capture_output=True)
    until(lambda: asked_again() == 1, "the signal was not heard")
    job, _ = working()
    slurm("scontrol", "requeue", job)
    job, owner = working()
    os.kill(owner["pid"], signal.SIGKILL)
    job, _ = working()
    slurm("scancel", job)
    working()  # preempted by the job of a higher partition
    slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    until(lambda: asked_again() >= 2, "nobody was preempted")
    working()
    node = slurm("sinfo", "-h", "-N", "-o", "%N").splitlines()[0]
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    slurm("scontrol", "update", f"nodename={node}", "state=resume")
    until(over, "the array does not end")

    # what was killed and what was cancelled is still to be done; now with a time limit that each run meets
    left = json.loads(sweep("status", "--json"))
    assert left["to do"] >= 2 and left["done"] + left["to do"] == RUNS
    line = sweep("submit", "--partition", "low", "--time", "1", "--dry-run").split()
    script = dataset / line[3]
    script.write_text(script.read_text().replace("B:USR2@120", "B:USR2@50"))
    subprocess.run(line, cwd=dataset, check=True, capture_output=True)
    until(over, "the second array does not end")
    assert json.loads(sweep("status", "--json"))["done"] == RUNS

    sweep("run", "--results", "peace", "--jobs", "2")
    for folder in results.glob("cluster/*"):
        assert outcome(folder) == outcome(dataset / "peace/cluster" / folder.name)
