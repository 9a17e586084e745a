"""Runs that a sweep starts here: on which device, as what, and what becomes of them when something breaks."""

import os
import signal
import subprocess
import sys
import time

import pytest

from medpeft_cli.errors import RecipeError
from medpeft_cli.runs.ranks import LAUNCHED
from medpeft_cli.sweep import local
from medpeft_cli.sweep.local import Sweep, devices_of
from tests.conftest import ROOT

STAND_IN = """\
#!/bin/sh
trap 'echo asked > {folder}/asked-$$; exit 143' TERM
touch {folder}/started-$$
while :; do sleep 0.02; done
"""


def test_each_run_has_its_gpu_and_is_no_part_of_what_started_the_sweep(cells, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in LAUNCHED:
        monkeypatch.setenv(name, "2")
    (tmp_path / "full.yaml").unlink()  # so that each run ends at once
    seen = []  # environments; /proc has none of a process that ended already

    class Popen(subprocess.Popen):
        def __init__(self, *words, env, **others):
            seen.append(env)
            super().__init__(*words, env=env, **others)

    monkeypatch.setattr(local.subprocess, "Popen", Popen)
    sweep = Sweep(cells[:4], tmp_path / "results", devices_of("3,1", 2, False), 5)
    sweep.run(lambda: None)
    assert len(seen) == 4
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen][:2] == ["3", "1"]
    assert {one["CUDA_VISIBLE_DEVICES"] for one in seen} == {"3", "1"}
    assert not any(name in one for one in seen for name in LAUNCHED)
    assert sorted(sweep.free) == ["1", "3"]
    assert [stands.state for stands in sweep.ended] == ["failed"] * 4
    assert all("full.yaml" in stands.note for stands in sweep.ended)


@pytest.mark.parametrize(
    ("visible", "gpus", "jobs", "demo", "expected"),
    [
        ("4,5", None, 3, False, ["4", "5", "4"]),
        ("4,5", None, None, False, ["4"]),
        ("4,5", "0,1", None, False, ["0", "1"]),
        ("4,5", "0,1", 3, False, ["0", "1", "0"]),
        ("", None, 2, False, [None, None]),
        (None, None, 3, False, ["0", "1", "0"]),  # as nvidia-smi has it
    ],
)
def test_the_gpus_are_given_out_in_turn(tmp_path, monkeypatch, visible, gpus, jobs, demo, expected):
    (tmp_path / "nvidia-smi").write_text(
        '#!/bin/sh\n[ "$1" = -L ] && printf "GPU 0: A (UUID: x)\\n  MIG 1g.5gb Device 0: (UUID: y)\\nGPU 1: B (UUID: z)\\n"\n'
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices_of(gpus, jobs, demo) == expected


def test_without_a_gpu_the_device_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices_of(None, 2, False) == [None, None]
    with pytest.raises(RecipeError, match="--gpus: got '0,0'"):
        devices_of("0,0", None, False)


@pytest.mark.parametrize(
    ("visible", "gpus", "expected"),
    [("4,5", "0,1", ["0", "1", "0", "1"]), ("4,5", None, ["4", "5", "4", "5"]), ("7", None, ["7", "7"])],
)
def test_so_many_runs_on_each_gpu(monkeypatch, visible, gpus, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices_of(gpus, None, False, 2) == expected
    assert devices_of(gpus, None, True, 2) == expected
    with pytest.raises(RecipeError, match="--jobs-per-gpu 2 and --jobs 3: give one"):
        devices_of(gpus, 3, False, 2)


def test_runs_on_each_gpu_need_a_gpu(cells, medpeft, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = medpeft("sweep", "run", "grid.yaml", "--jobs-per-gpu", "2")
    assert isinstance(result.exception, RecipeError) and "no GPU is seen here" in str(result.exception)


def test_a_folder_that_cannot_be_written_is_one_failed_run(cells, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "full.yaml").unlink()
    folder = cells[1].run_dir(tmp_path / "results")
    folder.parent.mkdir(parents=True)
    folder.touch()  # a file where the run's folder should be
    sweep = Sweep(cells[:3], tmp_path / "results", [None], 1)
    sweep.run(lambda: None)
    ended = {stands.run_dir: stands.note for stands in sweep.ended}
    assert len(ended) == 3 and sweep.free == [None] and not sweep.jobs
    assert f"{folder}: cannot be written" in ended[folder]
    assert all("full.yaml" in note for run_dir, note in ended.items() if run_dir != folder)


def test_a_fault_of_the_view_lets_every_run_save_first(cells, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(STAND_IN.format(folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    sweep = Sweep(cells[:3], tmp_path / "results", [None, None], 1)

    def show():
        if len(list(tmp_path.glob("started-*"))) == 2:
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        sweep.run(show)
    assert len(list(tmp_path.glob("asked-*"))) == 2 and not sweep.jobs and not sweep.todo


def test_a_second_ctrl_c_does_not_wait(cells, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(STAND_IN.format(folder=tmp_path).replace("exit 143", ":"))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(local, "POLL_SECONDS", 0.01)
    sweep = Sweep(cells[:1], tmp_path / "results", [None], 1)

    def show():
        if list(tmp_path.glob("asked-*")) or (sweep.jobs and list(tmp_path.glob("started-*"))):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)  # where the interrupt arrives

    with pytest.raises(KeyboardInterrupt):
        sweep.run(show)
    (job,) = sweep.jobs
    assert job.process.wait(10) == -signal.SIGKILL
