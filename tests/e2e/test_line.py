"""prepare → finetune → evaluate → report → export, through the real entry point."""

import csv
import json
from io import StringIO

import numpy as np
import pytest

from tests.e2e.conftest import run


@pytest.fixture(scope="module")
def finished(dataset, write_recipe):
    """One finished run."""
    done = run("finetune", write_recipe("lora"), "--results", "results", "--json", cwd=dataset)
    assert done.returncode == 0, done.stderr
    return dataset / json.loads(done.stdout)["run"]


def test_it_learns_and_the_record_says_all(finished):
    record = json.loads((finished / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["metrics"]["test"]["overall"]["f1_macro"]["value"] > 0.6  # chance is 0.33
    parameters = record["parameters"]
    assert parameters["total"] == parameters["frozen"] + parameters["method"] + parameters["head"]
    assert record["delta"]["bytes"] == (finished / "adapter" / "adapter_model.safetensors").stat().st_size
    assert record["data"]["counts"]["test"].keys() == {"left", "right", "top"}
    assert record["memory"]["peak_bytes"] > 0 and record["timing"]["images_per_second"] > 0
    assert not (finished / "checkpoint").exists()
    assert len((finished / "history.jsonl").read_text().splitlines()) == 3


def test_every_metric_comes_from_the_predictions_alone(finished):
    from medpeft_cli.metrics.predictions import read_predictions

    record = json.loads((finished / "record.json").read_text())
    _, _, labels, probabilities = read_predictions(finished / "predictions.csv", tuple(record["data"]["classes"]))
    accuracy = float(np.mean(probabilities.argmax(axis=1) == labels))
    assert record["metrics"]["test"]["overall"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_a_finished_run_is_skipped_and_not_written_again(finished, dataset, write_recipe):
    before = (finished / "record.json").stat().st_mtime_ns
    done = run("finetune", write_recipe("lora"), "--results", "results", cwd=dataset)
    assert done.returncode == 0 and "finished already" in done.stderr
    assert (finished / "record.json").stat().st_mtime_ns == before


def test_evaluate_again_gives_the_same_numbers_without_the_model(finished, dataset):
    before = json.loads((finished / "record.json").read_text())["metrics"]["test"]
    (finished / "adapter").rename(finished / "hidden")
    try:
        done = run("evaluate", finished, "--json", cwd=dataset)
    finally:
        (finished / "hidden").rename(finished / "adapter")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["metrics"]["test"] == before


def test_another_seed_is_another_run_and_the_report_has_their_mean(finished, dataset, write_recipe):
    done = run("finetune", write_recipe("lora"), "--results", "results", "--seed", 1, "--quiet", cwd=dataset)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    other = dataset / done.stdout.strip()
    assert other != finished
    values = [
        json.loads((folder / "record.json").read_text())["metrics"]["test"]["overall"]["f1_macro"]["value"]
        for folder in (finished, other)
    ]
    table = list(csv.DictReader(StringIO(run("report", "results", "--csv", cwd=dataset).stdout)))
    assert any(abs(float(value) - np.mean(values)) < 1e-3 for row in table for value in row.values() if _number(value))
    latex = run("report", "results", "--latex", cwd=dataset).stdout
    assert "\\toprule" in latex and "LoRA" in latex


def _number(text):
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def test_the_merged_export_is_plain_timm_with_the_same_logits(finished, dataset):
    import torch
    from safetensors.torch import load_file

    from medpeft_cli import load_adapter
    from medpeft_cli.demo.networks import demo_vit

    done = run("export", finished, "--merged", "merged.safetensors", cwd=dataset)
    assert done.returncode == 0, done.stderr
    plain = demo_vit(num_classes=3)
    plain.load_state_dict(load_file(dataset / "merged.safetensors"), strict=True)
    tuned = load_adapter(finished / "adapter")
    images = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval()(images), tuned.model(images), rtol=1e-4, atol=1e-5)


def test_the_adapter_alone_classifies_a_picture(finished, dataset):
    from PIL import Image

    from medpeft_cli import load_adapter

    tuned = load_adapter(finished / "adapter")
    logits = tuned.model(tuned.preprocess(Image.open(dataset / "raw" / "left" / "left_00.png")))
    assert logits.shape == (1, 3) and tuned.classes == ("left", "right", "top")
