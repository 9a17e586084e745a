"""Two processes give the run of one: trained, killed, resumed, started by --gpus and by torchrun."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medpeft_cli.errors import RunError
from medpeft_cli.recipe.load import load_recipe
from medpeft_cli.runs.start import start_run
from tests.conftest import ROOT


@pytest.fixture
def recipe(write_recipe):
    """Statistics of BatchNorm move. Two shares a step, since Adam makes much of the rounding in sums of three."""
    path = write_recipe("norm", stem="gpus")
    path.write_text(path.read_text().replace("demo_vit", "demo_resnet"))
    return path


@pytest.fixture
def whole(recipe, dataset, one_thread):
    """The run of one process."""
    return start_run(load_recipe(recipe, ["device=cpu"]), dataset / "alone", "medpeft finetune …")


def assert_same(folder, other):
    """What two runs of one recipe have in common, however many processes trained them."""
    adapters = [load_file(each / "adapter" / "adapter_model.safetensors") for each in (folder, other)]
    assert adapters[0].keys() == adapters[1].keys()
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(tensor, adapters[1][name], atol=1e-6, rtol=1e-6, msg=name)
    records = [json.loads((each / "record.json").read_text()) for each in (folder, other)]
    histories = [(each / "history.jsonl").read_text().splitlines() for each in (folder, other)]
    assert all(records[0][part] == records[1][part] for part in ("id", "identity", "status", "parameters"))
    for of_one, of_two in (
        [[json.loads(line) for line in lines] for lines in histories],
        [record["selection"] for record in records],
        [record["metrics"]["val"] for record in records],
    ):
        assert list(numbers(of_one)) == pytest.approx(list(numbers(of_two)), abs=1e-5)


def numbers(value):
    """Every number in lists and maps, in order."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield value


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
    return [int(child) for child in children if b"spawn_main" in seen_of(child, "cmdline")]


def seen_of(process, what):
    """Return what /proc tells of a process; nothing of one that is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/{what}").read_bytes()
    return b""


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
        while (stat := seen_of(other, "stat")) and b"Z" not in stat.rpartition(b")")[2]:
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
    scores = [json.loads((run_dir / "record.json").read_text())["metrics"]["test"] for run_dir in (resumed, whole)]
    assert list(numbers(scores[0])) == pytest.approx(list(numbers(scores[1])), abs=1e-5)


def test_torchrun_skips_a_finished_run(recipe, dataset, whole):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start([*torchrun, *command(recipe, "alone")[1:]], dataset)
    out, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert said.count("finished already") == 1 and len(out.splitlines()) == 1


def test_more_processes_than_gpus_are_refused(recipe, dataset):
    with pytest.raises(RunError, match="processes want a GPU each") as refusal:
        start_run(load_recipe(recipe, ["device=auto"]), dataset / "many", "…", processes=torch.cuda.device_count() + 2)
    assert "--set device=cpu" in refusal.value.hint


def test_two_processes_on_features_of_the_frozen_part_give_the_run_of_one(write_recipe, dataset, tmp_path, one_thread):
    shutil.copytree(dataset / "data", tmp_path / "data")
    plain = ["device=cpu", f"data.root={tmp_path / 'data'}", "augment.crop_scale=null", "augment.horizontal_flip=0"]
    loaded = load_recipe(write_recipe("linear", stem="features"), plain)
    together = start_run(loaded, tmp_path / "together", "medpeft finetune …", processes=2)
    assert json.loads((together / "record.json").read_text())["environment"]["processes"] == 2
    assert list((tmp_path / "data.cache").glob("frozen-*/keys.txt"))
    assert_same(start_run(loaded, tmp_path / "alone", "medpeft finetune …"), together)
