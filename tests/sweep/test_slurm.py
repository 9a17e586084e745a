"""A submitted grid is a list of commands and a script that does one line of it."""

import os
import re
import resource
import subprocess
import sys

import pytest

from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.runs.lock import run_lock
from medpeft_cli.sweep.slurm import array_commands, largest_array, listed_run
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SCRIPTS = [block for page in PAGES for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.M | re.S)]


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Return tools(**scripts): stand-ins for SLURM's commands, in front of all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(**scripts):
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return write


def test_submit_writes_list_and_script_and_prints_the_job_ids(cells, record, tools, tmp_path, medpeft):
    record(cells[0], "finished")
    record(cells[1], "failed", error="RunError: x")
    record(cells[2], "running")
    tools(sbatch=f'echo "$@" >> {tmp_path}/calls; echo "4711;cluster"', scontrol="echo MaxArraySize = 11")
    options = [
        "--partition",
        "gpu",
        "--time",
        "4:00:00",
        "--gpus-per-task",
        "1",
        "--account",
        "me",
        "--array-limit",
        "3",
    ]
    with run_lock(tmp_path / f"results/full/{cells[2].run}"):  # by a process that may be dead by then
        result = medpeft("sweep", "submit", "grid.yaml", *options, "--setup", "module load cuda", "--after", "99")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["4711", "4711"]
    script = "results/sweeps/grid-1/job.sh"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"--parsable --dependency=afterok:99 --array=1-10%3 {script} 0",
        f"--parsable --dependency=afterok:99 --array=1-8%3 {script} 10",
    ]
    lines = (tmp_path / "results/sweeps/grid-1/runs.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [cell.run for cell in cells[2:]]
    text = (tmp_path / script).read_text()
    subprocess.run(["bash", "-n", script], check=True)
    for line in (
        "--partition=gpu", "--time=4:00:00", "--gpus-per-task=1", "--account=me", "--requeue", "--open-mode=append",
        "--signal=B:USR2@120", f"--chdir={tmp_path}",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert text.index("trap '' USR2") < text.index("module load cuda\n") < text.index("exec ")
    assert (tmp_path / "results/sweeps/grid-1/log").is_dir()


def test_a_task_does_its_line_and_skips_what_is_finished_without_torch(cells, record, tools, tmp_path, medpeft):
    tools(sbatch="echo 1")
    medpeft("sweep", "submit", "grid.yaml")
    folder = record(cells[12], "finished")
    for argument, task in (([], "13"), (["10"], "3")):
        done = subprocess.run(
            ["bash", "results/sweeps/grid-1/job.sh", *argument], capture_output=True, text=True, timeout=60,
            env=os.environ | {"SLURM_ARRAY_TASK_ID": task, "PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{folder.relative_to(tmp_path)}\n"
        assert "pydantic" in done.stderr and "| torch" not in done.stderr


def test_what_is_written_into_the_list_is_done(cells, record, tools, tmp_path, medpeft, monkeypatch):
    medpeft("sweep", "submit", "grid.yaml", "--gpus-per-task", "3", "--dry-run")
    path = tmp_path / "results/sweeps/grid-1/runs.tsv"
    first, second, *rest = path.read_text().splitlines()
    assert all(line.endswith(" --gpus 3") for line in (first, second, *rest))
    path.write_text("\n".join([f"{first} --no-evaluate", f"{second} --track nowhere", *rest]))
    folder = record(cells[0], "trained")
    assert medpeft("sweep", "task", str(path), "1").stdout == f"{folder.relative_to(tmp_path)}\n"
    assert "track: got 'nowhere'" in medpeft("sweep", "task", str(path), "2").exception.message
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert medpeft("sweep", "task", str(path), "3").exception.message.startswith("--gpus 3: 2 processes")


def test_a_task_leaves_a_failed_run_to_retry(cells, record, tools, medpeft):
    medpeft("sweep", "submit", "grid.yaml", "--dry-run")
    record(cells[2], "failed", error="RunError: loss became nan")
    error = medpeft("sweep", "task", "results/sweeps/grid-1/runs.tsv", "3").exception
    assert isinstance(error, RunError) and "failed before: RunError: loss became nan" in error.message
    assert "sweep retry" in error.hint


def test_a_recipe_that_has_changed_since_is_not_run(cells, tools, tmp_path, medpeft):
    tools(sbatch="echo 1")
    medpeft("sweep", "submit", "grid.yaml")
    path = tmp_path / "full.yaml"
    path.write_text(path.read_text() + "train: {lr: 0.5}\n")
    error = medpeft("sweep", "task", "results/sweeps/grid-1/runs.tsv", "1").exception
    assert isinstance(error, RecipeError) and "full.yaml: has changed since it was submitted" in error.message


def test_nothing_to_do_submits_nothing(cells, record, tools, medpeft, tmp_path):
    tools(sbatch=f"touch {tmp_path}/called")
    for cell in cells:
        record(cell, "finished")
    result = medpeft("sweep", "submit", "grid.yaml")
    assert (result.exit_code, result.stdout) == (0, "")
    assert not (tmp_path / "called").exists() and not (tmp_path / "results/sweeps").exists()


def test_a_dry_run_submits_nothing_but_writes_everything(cells, tools, tmp_path, medpeft):
    tools(sbatch=f"touch {tmp_path}/called")
    result = medpeft("sweep", "submit", "grid.yaml", "--dry-run")
    assert result.stdout == "sbatch --parsable --array=1-20 results/sweeps/grid-1/job.sh 0\n"
    assert not (tmp_path / "called").exists()
    again = medpeft("sweep", "submit", "grid.yaml", "--dry-run")
    assert "results/sweeps/grid-2/job.sh" in again.stdout  # the first list stays as it is


def test_sbatchs_words_are_shown(cells, tools, medpeft):
    tools(sbatch="echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1")
    error = medpeft("sweep", "submit", "grid.yaml").exception
    assert isinstance(error, RunError) and "invalid partition specified: gpuu" in error.message
    assert "--array=1-20" in error.hint


def test_a_full_disk_submits_nothing(cells, tools, medpeft, tmp_path):
    tools(sbatch=f"touch {tmp_path}/called")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # less than the list takes
    try:
        error = medpeft("sweep", "submit", "grid.yaml").exception
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(error, RunError) and "runs.tsv: cannot be written" in error.message and "free space" in error.hint
    assert not (tmp_path / "called").exists()


def test_without_sbatch_the_next_step_is_named(cells, medpeft, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    error = medpeft("sweep", "submit", "grid.yaml").exception
    assert isinstance(error, RunError) and error.message == "sbatch: not found" and "--dry-run" in error.hint


def test_arrays_switched_off(tools):
    tools(scontrol="echo 'MaxArraySize            = 0'")
    with pytest.raises(RunError, match="job arrays switched off"):
        largest_array()


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (1000, [1000]), (1001, [1000, 1]), (2500, [1000, 1000, 500])])
def test_long_lists_are_cut(count, sizes, tmp_path):
    commands = array_commands(tmp_path / "job.sh", count, 1001, None, None)
    assert [int(words[2].partition("1-")[2]) for words in commands] == sizes
    assert [int(words[4]) for words in commands] == [sum(sizes[:i]) for i in range(len(sizes))]


def test_a_line_that_is_not_there(tmp_path):
    (tmp_path / "runs.tsv").write_text("a\tmedpeft finetune a.yaml\nnonsense\n")
    assert listed_run(tmp_path / "runs.tsv", 1) == ("a", "medpeft finetune a.yaml")
    with pytest.raises(RecipeError, match="no line 3, it has 2"):
        listed_run(tmp_path / "runs.tsv", 3)
    with pytest.raises(DataError, match="runs.tsv:2: wanted a run id"):
        listed_run(tmp_path / "runs.tsv", 2)
    with pytest.raises(DataError, match="cannot be read"):
        listed_run(tmp_path / "other.tsv", 1)


def test_the_python_of_the_script_is_this_one(cells, tools, tmp_path, medpeft):
    medpeft("sweep", "submit", "grid.yaml", "--dry-run")
    assert f"exec {sys.executable} -m medpeft_cli sweep task" in (tmp_path / "results/sweeps/grid-1/job.sh").read_text()


@pytest.mark.parametrize(
    ("done", "last"), [(0, "--dependency=afterany:2:3 --wrap medpeft report"), (20, "--wrap medpeft prepare")]
)
def test_the_chain_of_the_docs(cells, record, tools, tmp_path, done, last):
    for cell in cells[:done]:
        record(cell, "finished")
    calls = tmp_path / "calls"
    tools(
        sbatch=f'echo "$@" >> {calls}; wc -l < {calls}',
        scontrol="echo MaxArraySize = 11",
        medpeft=f'exec {sys.executable} -m medpeft_cli "$@"',
    )
    (chain,) = [block for block in SCRIPTS if "sweep submit" in block]
    script = chain.replace("recipes/paper/figure1.yaml", "grid.yaml")
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    arrays = [line for line in calls.read_text().splitlines() if "--array" in line]
    assert len(arrays) == (0 if done else 2) and all("--dependency=afterok:1 " in line for line in arrays)
    assert last in calls.read_text().splitlines()[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_the_scripts_of_the_docs(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
