"""prepare → finetune → evaluate → report → export, through the real entry point."""

import csv
import json
import shutil
from io import StringIO

import numpy as np
import pytest

from medpeft_cli.engine.restore import restore_adapter
from medpeft_cli.errors import DataError
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
    assert record["data"]["counts"]["test"].keys() == {"red", "green", "blue"}
    assert record["memory"]["peak_bytes"] > 0 and record["timing"]["images_per_second"] > 0
    assert not (finished / "checkpoint").exists()
    assert len((finished / "history.jsonl").read_text().splitlines()) == 4


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


def test_a_finished_run_that_is_to_be_scored_otherwise_is_scored_again_from_its_predictions(
    finished, dataset, write_recipe
):
    before = (finished / "record.json").read_text()
    options = ("--results", "results", "--set", "evaluate.bootstrap=77")
    (finished / "adapter").rename(finished / "hidden")
    try:
        done = run("finetune", write_recipe("lora"), *options, cwd=dataset)
    finally:
        (finished / "hidden").rename(finished / "adapter")
    assert done.returncode == 0, done.stderr
    record = json.loads((finished / "record.json").read_text())
    assert record["metrics"]["test"]["protocol"]["bootstrap"] == record["recipe"]["evaluate"]["bootstrap"] == 77
    assert "finished already" in run("finetune", write_recipe("lora"), *options, cwd=dataset).stderr
    (finished / "record.json").write_text(before)


def test_a_block_size_that_does_not_divide_is_told_once_and_recorded(dataset, write_recipe):
    recipe = write_recipe("oft", stem="blocks")
    done = run("finetune", recipe, "--set", "method.block_size=48", "--dry-run", "--json", cwd=dataset)
    assert done.returncode == 0, done.stderr
    adjusted = json.loads(done.stdout)["modules"]["adjusted"]
    assert len(adjusted) == 6 and done.stderr.count("HF peft takes other block sizes") == 1
    assert done.stderr.count("warning") == done.stderr.lower().count("warn") == 1


@pytest.mark.parametrize("confidence", ["nan", "1"])
def test_a_confidence_that_is_none_is_refused(finished, dataset, confidence):
    done = run("evaluate", finished, f"--confidence={confidence}", cwd=dataset)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "evaluate: confidence: got " in done.stderr and "wanted a number > 0 and < 1" in done.stderr


def damaged_adapter(content):
    content["method"] = {"name": "lora", "rnak": 4}


def nameless_adapter(content):
    del content["method"]["name"]


def unknown_adapter(content):
    content["method"]["name"] = "lroa"


@pytest.mark.parametrize(
    ("damage", "said"),
    [(damaged_adapter, "method.rnak"), (nameless_adapter, "method.name"), (unknown_adapter, "lroa")],
)
def test_a_damaged_adapter_is_a_data_error(finished, tmp_path, damage, said):
    shutil.copytree(finished / "adapter", tmp_path / "adapter")
    info = tmp_path / "adapter" / "medpeft.json"
    content = json.loads(info.read_text())
    damage(content)
    info.write_text(json.dumps(content))
    with pytest.raises(DataError, match=said) as caught:
        restore_adapter(tmp_path / "adapter")
    assert "medpeft.json" in caught.value.message


def test_a_record_that_lacks_what_a_trained_run_has_is_a_data_error(finished, dataset, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    record = json.loads((finished / "record.json").read_text())
    del record["data"]
    (tmp_path / "run" / "record.json").write_text(json.dumps(record))
    done = run("evaluate", tmp_path / "run", cwd=dataset)
    assert done.returncode == 3 and "damaged record: no data" in done.stderr, done.stderr


def test_the_input_of_an_adapter_is_that_of_its_training(finished, tmp_path):
    """Also where another timm says otherwise of the same weights."""
    from medpeft_cli import load_adapter

    shutil.copytree(finished / "adapter", tmp_path / "adapter")
    info = tmp_path / "adapter" / "medpeft.json"
    content = json.loads(info.read_text())
    content["input"] |= {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.75}
    info.write_text(json.dumps(content))
    tuned = load_adapter(tmp_path / "adapter")
    assert (tuned.input.mean, tuned.input.crop_pct) == ((0.1, 0.2, 0.3), 0.75)


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


def test_the_adapter_alone_gives_the_predictions_of_the_run_from_the_picture_files(finished, dataset):
    from medpeft_cli import load_adapter

    tuned = load_adapter(finished / "adapter")
    assert tuned.classes == ("red", "green", "blue")
    files = {
        row["id"]: row["file"] for row in csv.DictReader(StringIO((dataset / "data" / "manifest.csv").read_text()))
    }
    for row in csv.DictReader(StringIO((finished / "predictions.csv").read_text())):
        logits = tuned.model(tuned.preprocess(dataset / "raw" / files[row["id"]]))
        expected = [float(row[f"p_{name}"]) for name in tuned.classes]
        np.testing.assert_allclose(logits.softmax(1).detach().numpy()[0], expected, atol=1e-5)


def test_what_an_earlier_model_predicted_is_never_scored_as_this_ones(finished, dataset, write_recipe):
    recipe = write_recipe("linear", stem="stale")
    done = run("finetune", recipe, "--results", "stale", "--json", cwd=dataset)
    folder = dataset / json.loads(done.stdout)["run"]
    honest = json.loads((folder / "record.json").read_text())["metrics"]["test"]
    (folder / "record.json").unlink()
    rows = (folder / "predictions.csv").read_text().splitlines()
    perfect = [
        ",".join(
            [*row.split(",")[:3], *("1" if row.split(",")[2] == name else "0" for name in ("red", "green", "blue"))]
        )
        for row in rows[1:]
    ]
    (folder / "predictions.csv").write_text("\n".join([rows[0], *perfect]) + "\n")
    assert run("finetune", recipe, "--results", "stale", cwd=dataset).returncode == 0
    assert json.loads((folder / "record.json").read_text())["metrics"]["test"] == honest


def test_other_weights_behind_the_same_file_name_are_not_taken_for_the_run(dataset, write_recipe):
    import torch
    from safetensors.torch import save_file

    from medpeft_cli.demo.networks import demo_vit

    recipe = write_recipe("linear", stem="weights")
    codes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(demo_vit(num_classes=0).state_dict(), dataset / "w.safetensors")
        codes.append(run("finetune", recipe, "--results", "w", "--set", "backbone.weights=w.safetensors", cwd=dataset))
    assert codes[0].returncode == 0, codes[0].stderr
    assert codes[1].returncode == 3 and "the weights file" in codes[1].stderr


def test_a_twin_never_passes_for_a_real_dataset(dataset, root):
    demo = ("recipes/breastus_linear.yaml", "--set", f"data.root={dataset / 'twin'}")
    options = ("--set", "train.epochs=1", "--set", "data.fraction=0.2", "--set", "evaluate.bootstrap=0")
    done = run("finetune", *demo, *options, "--demo", "--results", dataset / "demo", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    assert json.loads((dataset / "demo" / json.loads(done.stdout)["run"] / "record.json").read_text())["demo"] is True
    real = run("finetune", *demo, "--set", "backbone.name=demo_vit", "--dry-run", cwd=root)
    assert real.returncode == 3 and "synthetic twin" in real.stderr
