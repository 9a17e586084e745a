"""`finetune --dry-run --memory` says beforehand what the record will say."""

import json
import subprocess
import sys

import pytest

from tests.e2e.conftest import run

LARGE = ("train.batch_size=48", "train.micro_batch_size=48", "train.epochs=2")
PLAIN = ("augment.crop_scale=null", "augment.horizontal_flip=0")


def settings(words):
    return [word for setting in words for word in ("--set", setting)]


def predicted(recipe, cwd, *words):
    done = run("finetune", recipe, *words, "--dry-run", "--memory", "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["memory"]


def recorded(recipe, cwd, results, *words):
    done = run("finetune", recipe, *words, "--no-evaluate", "--json", "--results", results, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads((results / json.loads(done.stdout)["run"] / "record.json").read_text())["memory"]


def refuse_far(prediction, memory):
    assert {name: prediction[name] for name in ("measure", "device")} == {
        name: memory[name] for name in ("measure", "device")
    }
    assert prediction["peak_bytes"] == pytest.approx(memory["peak_bytes"], rel=0.15)
    assert sum(prediction["parts"].values()) == prediction["peak_bytes"]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("full", LARGE),
        ("ssf", (*LARGE, "train.gradient_checkpointing=true", "train.precision=bfloat16")),
        ("lora", ("train.micro_batch_size=4", "train.epochs=1")),
        ("linear", (*LARGE, *PLAIN)),
    ],
)
def test_the_predicted_peak_is_that_of_the_record(dataset, write_recipe, tmp_path, method, words):
    recipe, files = write_recipe(method), sorted(dataset.rglob("*"))
    prediction = predicted(recipe, dataset, *settings(words))
    assert sorted(dataset.rglob("*")) == files
    refuse_far(prediction, recorded(recipe, dataset, tmp_path, *settings(words)))


def test_the_predicted_peak_of_text_to_image_is_that_of_the_record(root, tmp_path):
    recipe = root / "recipes" / "mimic_full.yaml"
    words = ("--demo", *settings(("train.steps=2", "train.validate_steps=1", "train.ema_decay=0.9")))
    prediction = predicted(recipe, tmp_path, *words)
    assert not (tmp_path / "data" / "demo" / "mimic_cxr.cache").exists()  # neither latents nor prompts were computed
    refuse_far(prediction, recorded(recipe, tmp_path, tmp_path, *words))


def test_larger_batches_and_more_trained_tensors_take_more(dataset, write_recipe):
    small = predicted(write_recipe("bias"), dataset, "--set", "train.micro_batch_size=4")["parts"]
    large = predicted(write_recipe("full"), dataset, *settings(LARGE))["parts"]
    assert large["activations_and_buffers"] > 3 * small["activations_and_buffers"]
    assert large["gradients_and_optimiser"] == pytest.approx(3 * large["parameters"], rel=0.01)
    assert small["gradients_and_optimiser"] < small["parameters"] / 10


SCARCE = """\
import resource, sys
from pathlib import Path
from medpeft_cli.engine import assembly, tasks
from medpeft_cli.recipe.load import load_recipe

def describe(built):  # all that is built is there by now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**26,) * 2)

assembly.describe = describe
recipe = load_recipe(Path(sys.argv[1]), ["device=cpu", *sys.argv[2:]]).recipe
tasks.dry_run(recipe, memory=True)
"""


def test_too_little_memory_is_the_explained_error(dataset, write_recipe):
    command = [sys.executable, "-c", SCARCE, str(write_recipe("full")), *LARGE]
    done = subprocess.run(command, cwd=dataset, capture_output=True, text=True, timeout=240)
    assert "RunError: out of memory with train.micro_batch_size 48" in done.stderr


def test_memory_is_for_a_dry_run(dataset, write_recipe):
    done = run("finetune", write_recipe("bias"), "--memory", cwd=dataset)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--memory is for --dry-run" in done.stderr
