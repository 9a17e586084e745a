"""Searches that really run: shared by processes, killed, and blind to the test split."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from medpeft_cli.data.card import load_card
from medpeft_cli.data.manifest import read_manifest
from medpeft_cli.recipe.identity import study_id
from medpeft_cli.recipe.load import load_recipe
from medpeft_cli.runs.lock import run_lock
from tests.e2e.conftest import run

SEARCH = "search: {trials: 3, length: 0.5, space: {train.lr: {log: [1e-4, 1e-1]}, method.statistics: {choice: [adapt, hold]}}}"
FINISHED = 1  # Optuna's number of the state, in its journal


@pytest.fixture(scope="module")
def recipe(dataset, write_recipe):
    path = write_recipe("norm", stem="searching")
    path.write_text(path.read_text() + SEARCH)
    return path


@pytest.fixture(scope="module")
def whole(dataset, recipe):
    """The record of a run that nothing disturbed."""
    return finished(run("finetune", recipe, "--results", "search-whole", "--json", cwd=dataset), dataset)


def start(recipe, cwd, *arguments):
    command = [sys.executable, "-m", "medpeft_cli", "finetune", str(recipe), "--json", *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(done, cwd):
    assert done.returncode == 0, done.stderr
    return json.loads((cwd / json.loads(done.stdout)["run"] / "record.json").read_text())


def found(record):
    """What a search found, without its times."""
    trials = [{key: value for key, value in trial.items() if key != "seconds"} for trial in record["search"]["trials"]]
    return trials, record["search"]["chosen"], record["delta"]["sha256"]


def starts(study):
    return {folder.name: len(list((folder / "starts").iterdir())) for folder in (study / "trials").iterdir()}


def test_the_run_has_the_chosen_values_and_the_record_all_trials(whole, dataset):
    search = whole["search"]
    assert [trial["state"] for trial in search["trials"]] == ["finished"] * 3
    assert search["trials"][0]["values"] == {"train.lr": 3e-3, "method.statistics": "adapt"}
    best = max(search["trials"], key=lambda trial: trial["value"])
    assert (search["chosen"], search["value"]) == (best["values"], best["value"])
    (folder,) = (dataset / "search-whole").glob("searching/*-s0-*")
    info = json.loads((folder / "adapter" / "medpeft.json").read_text())
    assert info["method"]["statistics"] == search["chosen"]["method.statistics"]
    rates = [json.loads(line)["lr"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert len(rates) == 4 and 0.5 * search["chosen"]["train.lr"] < rates[0] < search["chosen"]["train.lr"]
    assert whole["timing"]["search_seconds"] >= search["seconds"] > 0
    assert whole["recipe"]["train"]["lr"] == 3e-3  # as it was asked for


def test_killed_in_a_trial_the_search_ends_the_same(recipe, dataset, whole):
    results = dataset / "search-killed"
    process = start(recipe, dataset, "--results", "search-killed")
    while not list(results.glob("searching/*/trials/1/checkpoint/last.pt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = finished(run("finetune", recipe, "--results", "search-killed", "--json", cwd=dataset), dataset)
    assert found(resumed) == found(whole)
    (study,) = results.glob("searching/*-search-*")
    assert starts(study) == {"0": 1, "1": 2, "2": 1}


def test_seeds_that_run_at_once_share_the_trials(recipe, dataset):
    study = dataset / "search-shared" / "searching" / study_id(load_recipe(recipe).recipe)

    def ended():
        path = study / "journal.log"
        lines = (
            [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")]
            if path.is_file()
            else []
        )
        return sum(line.get("state") == FINISHED for line in lines)

    with run_lock(study / "trials" / "0"):  # as if a third process had it
        both = [start(recipe, dataset, "--results", "search-shared", "--seed", str(seed)) for seed in (0, 1)]
        while ended() < 2:
            assert all(process.poll() is None for process in both), [process.communicate() for process in both]
            time.sleep(0.02)
    said = [process.communicate(timeout=200) for process in both]
    records = [
        finished(subprocess.CompletedProcess([], process.returncode, *words), dataset)
        for process, words in zip(both, said, strict=True)
    ]
    assert [record["recipe"]["seed"] for record in records] == [0, 1]
    assert records[0]["search"] == records[1]["search"] and len(records[0]["search"]["trials"]) == 3
    assert starts(study) == {"0": 2, "1": 1, "2": 1}  # ours, and one for each trial
    states = json.loads(run("sweep", "status", "search-shared", "--json", cwd=dataset).stdout)
    assert (states["count"], states["done"]) == (2, 2)  # a study is no run


def test_the_search_does_not_depend_on_the_test_pictures(recipe, dataset, whole):
    copy = dataset / "blackened"
    shutil.copytree(dataset / "data", copy)
    manifest = read_manifest(copy, load_card(str(dataset / "shapes.yaml")))
    (pixels,) = (copy / "images").glob("*.bin")
    stored = np.memmap(pixels, dtype=np.uint8, mode="r+")
    for index in manifest.indices("test"):
        stored[manifest.offsets[index] : manifest.offsets[index] + manifest.shapes[index].prod()] = 0
    stored.flush()
    arguments = ("--results", "search-black", "--set", f"data.root={copy}", "--json")
    blackened = finished(run("finetune", recipe, *arguments, cwd=dataset), dataset)
    assert found(blackened) == found(whole)
    assert blackened["metrics"]["test"] != whole["metrics"]["test"]


def test_processes_that_train_one_run_each_take_trials_of_their_own(recipe, dataset, whole):
    arguments = ("--results", "search-together", "--gpus", "2", "--set", "device=cpu", "--json")
    record = finished(run("finetune", recipe, *arguments, cwd=dataset), dataset)
    assert [trial["state"] for trial in record["search"]["trials"]] == ["finished"] * 3
    assert record["search"]["trials"][0]["value"] == whole["search"]["trials"][0]["value"]
    (study,) = (dataset / "search-together").glob("searching/*-search-*")
    assert starts(study) == {"0": 1, "1": 1, "2": 1}
    lines = [json.loads(line) for line in (study / "journal.log").read_text().splitlines()]
    assert len({line["worker_id"] for line in lines if line.get("state") == FINISHED}) == 2
