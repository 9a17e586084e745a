"""Two processes give the run of one: trained, killed, resumed, started by --gpus, torchrun and srun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from medpeft_cli.recipe.load import load_recipe
from medpeft_cli.runs.start import start_run
from tests.captioned import write_captioned
from tests.captioned import write_recipe as write_captioned_recipe
from tests.conftest import ROOT
from tests.e2e.test_resume import outcome

WITHIN = 1e-6


@pytest.fixture
def recipe(write_recipe):
    """Statistics of BatchNorm move, and three shares a step meet two processes."""
    path = write_recipe("norm", stem="gpus")
    path.write_text(
        path.read_text().replace("demo_vit", "demo_resnet").replace("micro_batch_size: 8", "micro_batch_size: 6")
    )
    return path


@pytest.fixture
def whole(recipe, dataset):
    """The run of one process."""
    return start_run(load_recipe(recipe, ["device=cpu"]), dataset / "alone", "medpeft finetune …")


def assert_same(folder, other):
    """What two runs of one recipe have in common, however many processes trained them."""
    adapters = [load_file(each / "adapter" / "adapter_model.safetensors") for each in (folder, other)]
    assert adapters[0].keys() == adapters[1].keys()
    for name, tensor in adapters[0].items():
        assert float((tensor - adapters[1][name]).abs().max()) <= WITHIN * max(1, float(tensor.abs().max())), name
    for one, two in zip(*(flat(outcome(each)[0].splitlines()) for each in (folder, other)), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    records = [json.loads((each / "record.json").read_text()) for each in (folder, other)]
    for part in ("id", "identity", "status"):
        assert records[0][part] == records[1][part]
    for one, two in zip(*(flat([json.dumps(record["metrics"])]) for record in records), strict=True):
        assert one == pytest.approx(two, abs=1e-5)


def flat(lines):
    """Every number of some lines of JSON, in order."""

    def numbers(value):
        if isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                yield from numbers(each)
        elif isinstance(value, int | float):
            yield value

    return [number for line in lines for number in numbers(json.loads(line))]


def command(recipe, results, *options):
    return [
        sys.executable,
        "-m",
        "medpeft_cli",
        "finetune",
        str(recipe),
        "--results",
        results,
        "--set",
        "device=cpu",
        *options,
    ]


def start(words, cwd, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(words, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def others_of(process):
    """The processes that it has started to train with it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_killed_and_resumed_by_two_processes_the_run_is_that_of_one(recipe, dataset, whole):
    def kill(whom, results="together"):
        process = start(command(recipe, results, "--gpus", "2"), dataset)
        before = {path.stat().st_mtime_ns for path in (dataset / results).glob("*/*/checkpoint/last.pt")}
        while {path.stat().st_mtime_ns for path in (dataset / results).glob("*/*/checkpoint/last.pt")} <= before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        (other,) = others_of(process)
        os.kill(process.pid if whom == 0 else other, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        end = time.monotonic() + 20
        while Path(f"/proc/{other}").exists() and "Z" not in Path(f"/proc/{other}/stat").read_text().rpartition(")")[2]:
            assert time.monotonic() < end, "the other process outlives its run"
            time.sleep(0.05)
        (record,) = (dataset / results).glob("*/*/record.json")
        return process.returncode, said, json.loads(record.read_text())

    code, said, record = kill(1)
    assert code == 4 and "error: process 1: is gone without a word" in said
    assert record["status"] == "failed" and "process 1" in record["error"]
    assert record["environment"]["processes"] == 2
    code, _, record = kill(0)
    assert code == -signal.SIGKILL and record["status"] == "running"
    resumed = start_run(load_recipe(recipe, ["device=cpu"]), dataset / "together", "medpeft finetune …", processes=2)
    assert json.loads((resumed / "record.json").read_text())["environment"]["processes"] == 2
    assert_same(resumed, whole)


def test_torchrun_skips_a_finished_run(recipe, dataset, whole):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start([*torchrun, *command(recipe, "alone")[1:]], dataset)
    out, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert said.count("finished already") == 1 and len(out.splitlines()) == 1


def test_a_step_of_slurm_with_different_runs_is_refused(recipe, dataset):
    with socket.create_server(("", 0)) as free:
        port = str(free.getsockname()[1])
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "MASTER_PORT": port}
    tasks = [
        start(command(recipe, "srun", "--seed", rank), dataset, **step, SLURM_PROCID=rank, SLURM_LOCALID=rank)
        for rank in ("0", "1")
    ]
    said = [task.communicate(timeout=100)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [4, 4]
    assert "the 2 processes that were started together were given different runs" in said[0] and said[1] == ""


def test_more_processes_than_gpus_are_refused(recipe, dataset):
    import torch

    many = torch.cuda.device_count() + 1
    process = start([*command(recipe, "many", "--gpus", str(max(many, 2))), "--set", "device=auto"], dataset)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4 and "processes want a GPU each" in said and "--set device=cpu" in said


def test_two_processes_tune_a_pipeline_and_make_its_pictures(tmp_path):
    from medpeft_cli import compat  # noqa: F401  must come before timm

    # isort: split
    import timm
    from safetensors.torch import save_file

    folder = write_captioned(tmp_path)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "encoder.safetensors")
    encoder = [f"evaluate.encoder_weights={folder}/encoder.safetensors", "evaluate.encoder=timm:test_resnet"]
    loaded = load_recipe(write_captioned_recipe(folder, "gpus"), encoder)
    alone = start_run(loaded, folder / "alone", "medpeft finetune …")
    together = start_run(loaded, folder / "together", "medpeft finetune …", processes=2)
    assert_same(together, alone)
    assert {path.name for path in (together / "images").iterdir()} == {
        path.name for path in (alone / "images").iterdir()
    }
