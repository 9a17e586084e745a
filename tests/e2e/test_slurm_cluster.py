"""Runs on a real SLURM through everything that can happen to a job; the records are those of runs left in peace.

Five runs and a step of two processes with the other tests; twenty runs with MEDPEFT_WHOLE_CLUSTER=1 (`make slurm`), which takes ten
minutes. On a cluster that answers, with partitions `low` (preempted, requeued) and `high` and the right to take its node down, or
on one of our own.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.conftest import ROOT
from tests.e2e.cluster import cluster, missing
from tests.e2e.conftest import RECIPE, run
from tests.e2e.test_resume import outcome

PATIENCE = 1200  # seconds for each wait of the twenty runs
LONG = 500  # epochs: more than half a minute

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def slurm_here(tmp_path_factory):
    """A SLURM that answers."""
    if shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield
        return
    if why := missing():
        pytest.skip(f"no SLURM answers here (sinfo), and {why}")
    with cluster(tmp_path_factory.mktemp("slurm"), cpus=4) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


def slurm(*command: str, **options) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, **options).stdout.strip()


def signalled(job: str) -> None:
    """Send USR2 to a job; without the time-out scancel would send it again to the restarted job."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", "-b", "-s", "USR2", job], timeout=1, capture_output=True)


def until(condition, what: str):
    """Return the first true value of a condition."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.3)
    return value


def idle() -> bool:
    return not slurm("squeue", "-h", "--me")


class Sweep:
    """A grid in a folder, and its runs in results/."""

    def __init__(self, folder, grid):
        self.folder, self.grid, self.results = folder, grid, folder / "results"
        self.met: set[str] = set()  # jobs to which something has happened

    def __call__(self, verb, *options):
        """Return what `medpeft sweep VERB grid …` says on stdout."""
        done = run("sweep", verb, self.grid, *options, cwd=self.folder, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self):
        return json.loads(self("status", "--json"))

    def working(self):
        """Return folder and owner of a run that has trained for a while and to which nothing has happened yet."""

        def look():
            for start in self.results.glob("*/*/starts/1"):
                folder = start.parents[1]
                if (folder / "checkpoint/last.pt").exists() and not (start.parent / "2").exists():
                    owner = json.loads(start.read_text())
                    if owner and owner["job"] not in self.met:
                        return folder, owner
            return None

        folder, owner = until(look, "no run is being trained")
        self.met.add(owner["job"])
        return folder, owner

    def starts_again(self, folder):
        until((folder / "starts/2").exists, f"{folder.name} is not started again")

    def asked_again(self) -> int:
        logs = (path.read_text() for path in self.results.glob("sweeps/*/log/*"))
        return sum(text.count("SLURM is asked to start it again") for text in logs)

    def assert_as_in_peace(self, count):
        assert self.status()["done"] == count
        self("run", "--results", "peace", "--jobs", "2")
        folders = [folder for folder in self.results.glob("*/*") if (folder / "record.json").exists()]
        assert len(folders) == count
        for folder in folders:
            assert outcome(folder) == outcome(self.folder / "peace" / folder.relative_to(self.results))


@pytest.fixture
def write_recipe(dataset, tmp_path, monkeypatch):
    """Return write(name, epochs) of a recipe whose every step is followed by a checkpoint."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(name, epochs):
        recipe = RECIPE.format(card=dataset / "shapes.yaml", root=dataset / "data", method="norm")
        (tmp_path / f"{name}.yaml").write_text(recipe.replace("epochs: 4", f"epochs: {epochs}"))

    return write


def test_five_runs_survive_what_happens_every_day(tmp_path, write_recipe):
    write_recipe("short", 15)
    (tmp_path / "five.yaml").write_text("recipes: [short.yaml]\nmatrix: {seed: [0, 1, 2, 3, 4]}\n")
    sweep = Sweep(tmp_path, "five.yaml")
    sweep("submit", "--array-limit", "3")
    told, owner = sweep.working()
    signalled(owner["job"])
    requeued, owner = sweep.working()
    slurm("scontrol", "requeue", owner["job"])
    killed, owner = sweep.working()
    os.kill(owner["pid"], signal.SIGKILL)
    cancelled, owner = sweep.working()
    slurm("scancel", owner["job"])
    for folder in (told, requeued):
        sweep.starts_again(folder)
    until(idle, "the array does not end")
    assert sweep.asked_again() == 1
    states = {one["run"]: (one["state"], one["note"]) for one in sweep.status()["runs"]}
    assert states.pop(killed.name) == ("to do", "interrupted")
    assert states.pop(cancelled.name) == ("to do", "cancelled")
    assert set(states.values()) == {("done", "")}
    assert "0 runs put back" in sweep("retry", "--failed")  # neither of the two has failed
    sweep("submit")
    until(idle, "the second array does not end")
    sweep.assert_as_in_peace(5)


def test_a_step_of_two_processes_is_requeued_by_a_signal_and_goes_on(tmp_path, write_recipe):
    write_recipe("both", 15)
    page = (ROOT / "docs/slurm.md").read_text()
    (script,) = [block for block in re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S) if "exec srun" in block]
    script = re.sub(r"#SBATCH --nodes.*", "#SBATCH --ntasks=2 --output=log", script)
    line = f"{sys.executable} -m medpeft_cli finetune both.yaml --set device=cpu"
    (tmp_path / "job.sh").write_text(re.sub(r"medpeft finetune \S+", line, script))
    job = slurm("sbatch", "--parsable", "job.sh", cwd=tmp_path)
    until(lambda: list(tmp_path.glob("results/*/*/checkpoint/last.pt")), "it is not trained")
    signalled(job)
    until(idle, "the job does not end")
    said = (tmp_path / "log").read_text()
    (folder,) = tmp_path.glob("results/both/*")
    record = json.loads((folder / "record.json").read_text())
    assert (record["status"], record["environment"]["processes"]) == ("finished", 2), said
    assert said.count("SLURM is asked to start it again") == 1
    assert sorted(path.name for path in (folder / "starts").iterdir()) == ["1", "2"]


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.skipif("MEDPEFT_WHOLE_CLUSTER" not in os.environ, reason="ten minutes: make slurm")
def test_twenty_runs_survive_everything(tmp_path, write_recipe):
    write_recipe("short", 40)
    write_recipe("long", LONG)
    (tmp_path / "many.yaml").write_text(f"recipes: [short.yaml]\nmatrix: {{seed: {list(range(19))}}}\n")
    (tmp_path / "one.yaml").write_text("recipes: [long.yaml]\n")
    (tmp_path / "twenty.yaml").write_text("grids: [many.yaml, one.yaml]\n")
    sweep = Sweep(tmp_path, "many.yaml")
    sweep("submit", "--partition", "low", "--time", "10:00")
    folder, owner = sweep.working()
    signalled(owner["job"])
    sweep.starts_again(folder)
    assert sweep.asked_again() == 1
    folder, owner = sweep.working()
    slurm("scontrol", "requeue", owner["job"])
    sweep.starts_again(folder)
    _, owner = sweep.working()
    os.kill(owner["pid"], signal.SIGKILL)
    _, owner = sweep.working()
    slurm("scancel", owner["job"])
    folder, _ = sweep.working()  # preempted by the job of a higher partition
    slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    sweep.starts_again(folder)
    assert sweep.asked_again() >= 2
    folder, _ = sweep.working()
    node = slurm("sinfo", "-h", "-N", "-o", "%N").splitlines()[0]
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    slurm("scontrol", "update", f"nodename={node}", "state=resume")
    sweep.starts_again(folder)
    until(idle, "the array does not end")

    # what was killed and what was cancelled is still to be done; now with a time limit, which the long run meets
    sweep.grid = "twenty.yaml"
    left = sweep.status()
    assert left["to do"] >= 3 and left["done"] + left["to do"] == 20
    before = sweep.asked_again()
    line = sweep("submit", "--partition", "low", "--time", "1", "--dry-run").split()
    script = tmp_path / line[3]
    script.write_text(script.read_text().replace("B:USR2@120", "B:USR2@55"))
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True)
    until(idle, "the second array does not end")
    assert sweep.asked_again() > before
    (folder,) = sweep.results.glob("long/*")
    assert (folder / "starts/2").exists()
    sweep.assert_as_in_peace(20)
