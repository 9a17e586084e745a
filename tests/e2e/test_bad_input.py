"""Each wrong input: what was wrong, where, the next step, the exit code, and no traceback."""

import json
import resource

import numpy as np
import pytest
import torch
from PIL import Image

from tests.e2e.conftest import draw, run

RECIPE, DATA, RUN = 2, 3, 4


def fails(done, code, *said):
    """Assert that a command ended as it should: the exit code, the words, a hint, no traceback, nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for words in (*said, "hint:"):
        assert words in done.stderr, done.stderr


def test_every_problem_of_a_recipe_is_told_at_once_with_its_place(dataset):
    (dataset / "wrong.yaml").write_text(
        "task: classify\n"
        "data: {card: shapes.yaml, fraction: 2}\n"
        "backbone: {name: demo_vit}\n"
        "method:\n  name: lora\n  rnak: 8\n"
        "train:\n  epochs: many\n  learning_rate: 1e-3\n"
    )
    done = run("finetune", "wrong.yaml", cwd=dataset)
    fails(done, RECIPE, "wrong.yaml:2:", "data.fraction", "wrong.yaml:6:3: method.rnak", "'rank'", "wrong.yaml:8:")
    assert "train.learning_rate" in done.stderr


def test_unknown_method_names_the_nearest(dataset, write_recipe):
    done = run("finetune", write_recipe("lroa"), cwd=dataset)
    fails(done, RECIPE, "'lroa'", "'lora'", "lroa.yaml:4:")


def test_unknown_backbone_names_the_nearest(dataset, write_recipe):
    done = run("finetune", write_recipe(), "--set", "backbone.name=resnet5O.a1_in1k", "--dry-run", cwd=dataset)
    fails(done, RECIPE, "'resnet5O'", "resnet50")


def test_a_method_that_does_not_fit_the_backbone_names_those_that_do(dataset, write_recipe):
    done = run("finetune", write_recipe("tsa"), cwd=dataset)
    fails(done, RECIPE, "method 'tsa' does not fit backbone 'demo_vit' (vit)", "methods for vit: ", "adaptformer")


def test_missing_dataset_names_the_command_that_makes_it(dataset, write_recipe):
    done = run("finetune", write_recipe(), "--set", "data.root=nowhere", cwd=dataset)
    fails(done, DATA, "nowhere", "medpeft prepare")


def test_missing_recipe_and_missing_source(dataset):
    fails(run("finetune", "no.yaml", cwd=dataset), RECIPE, "no.yaml")
    fails(run("prepare", "shapes.yaml", "--source", "nowhere", "--root", "x", cwd=dataset), DATA, "nowhere")


def test_an_unknown_option_is_a_usage_error(dataset):
    fails(run("finetune", "no.yaml", "--sed", "3", cwd=dataset), RECIPE, "--sed")


@pytest.fixture
def raw(dataset, tmp_path):
    """A raw folder of one's own to damage, beside the card."""
    draw(tmp_path / "raw", per_class=12)
    (tmp_path / "shapes.yaml").write_text((dataset / "shapes.yaml").read_text())
    return tmp_path


def prepare(folder, *more):
    return run("prepare", "shapes.yaml", "--source", "raw", "--root", "data", *more, cwd=folder)


def test_a_corrupt_image_is_named_and_nothing_is_written(raw):
    picture = raw / "raw" / "red" / "red_03.png"
    picture.write_bytes(picture.read_bytes()[:200])
    fails(prepare(raw), DATA, "red/red_03.png", "--allow-bad")
    assert not (raw / "data" / "manifest.csv").exists()
    done = prepare(raw, "--allow-bad", 1)
    assert done.returncode == 0, done.stderr
    left_out = json.loads((raw / "data" / "dataset.json").read_text())["left_out"]
    assert any("red_03.png" in str(entry) for entry in left_out)


def test_an_empty_class_and_a_class_of_one_image_are_refused(raw):
    for picture in (raw / "raw" / "blue").iterdir():
        picture.unlink()
    fails(prepare(raw), DATA, "'blue'")
    draw_one = np.zeros((48, 48, 3), np.uint8)
    Image.fromarray(draw_one).save(raw / "raw" / "blue" / "only.png")
    fails(prepare(raw), DATA, "'blue'")


def test_images_of_odd_modes_train(raw):
    folder = raw / "raw" / "red"
    picture = Image.open(folder / "red_00.png")
    picture.convert("1").save(folder / "red_00.png")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(folder / "red_01.png")
    picture.convert("RGBA").save(folder / "red_02.png")
    picture.convert("P").save(folder / "red_03.png")
    picture.convert("CMYK").save(folder / "red_04.jpg")
    done = prepare(raw)
    assert done.returncode == 0, done.stderr
    assert sum(json.loads((raw / "data" / "dataset.json").read_text())["counts"]["train"].values()) > 0


def test_an_unwritable_results_folder(dataset, write_recipe):
    (dataset / "taken").write_text("a file")
    fails(run("finetune", write_recipe(), "--results", "taken", cwd=dataset), RUN, "taken", "cannot be written")


def test_a_full_disk_while_saving_keeps_the_way_on(dataset, write_recipe):
    recipe = write_recipe("full", stem="disk")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # noqa: E731
    done = run("finetune", recipe, "--results", "disk", cwd=dataset, preexec_fn=limit)
    fails(done, RUN, "cannot be written", "free space")
    record = json.loads(next((dataset / "disk").glob("*/*/record.json")).read_text())
    assert record["status"] == "failed" and "cannot be written" in record["error"]
    again = run("finetune", recipe, "--results", "disk", cwd=dataset)
    assert again.returncode == 0, again.stderr


def test_a_pickle_offered_as_weights_runs_no_code(dataset, write_recipe):
    marker = dataset / "ran"

    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(marker)!r}, 'w')",))

    torch.save({"state_dict": Trap()}, dataset / "trap.pth")
    done = run("finetune", write_recipe(), "--set", f"backbone.weights={dataset / 'trap.pth'}", cwd=dataset)
    fails(done, DATA, "trap.pth", "refused", "safetensors")
    assert not marker.exists()


def test_weights_of_another_network_are_named(dataset, write_recipe):
    torch.save({"state_dict": {"blocks.0.nothing": torch.zeros(2)}}, dataset / "other.pth")
    done = run("finetune", write_recipe(), "--set", f"backbone.weights={dataset / 'other.pth'}", cwd=dataset)
    fails(done, DATA, "other.pth", "weights of another network")


def test_a_loss_that_is_not_finite_stops_with_its_step(dataset, write_recipe):
    done = run("finetune", write_recipe("full", stem="nan"), "--set", "train.lr=1e30", cwd=dataset)
    fails(done, RUN, "loss became", "lower train.lr")


def test_evaluate_of_a_folder_that_is_no_run(dataset):
    fails(run("evaluate", dataset, cwd=dataset), DATA, "not a run directory")


def test_the_dataset_may_not_change_under_a_run(raw):
    assert prepare(raw).returncode == 0
    (raw / "r.yaml").write_text(
        "task: classify\ndata: {card: shapes.yaml, root: data}\nbackbone: {name: demo_vit}\nmethod: {name: linear}\n"
        "train: {epochs: 1, batch_size: 16}\nevaluate: {bootstrap: 0}\n"
    )
    assert run("finetune", "r.yaml", cwd=raw).returncode == 0
    done = run("prepare", "shapes.yaml", "--source", "raw", "--root", "data", "--seed", 5, cwd=raw)
    assert done.returncode == 0, done.stderr
    fails(run("finetune", "r.yaml", cwd=raw), DATA, "the dataset has changed")
