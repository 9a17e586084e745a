"""Frozen work is done once, and nothing but the time changes."""

import json
import shutil

import numpy as np
import pytest
import torch

from medpeft_cli.data.images import epoch_order, visits_of
from medpeft_cli.engine import classify
from medpeft_cli.engine.assembly import assemble
from medpeft_cli.engine.classify import ClassifyTask
from medpeft_cli.engine.predict import predict
from medpeft_cli.errors import RunError
from medpeft_cli.recipe.load import load_recipe
from medpeft_cli.runs.start import start_run

TRIAL = [2, 2, 2, 1]  # of the cut, on noise
PLAIN = ["augment.crop_scale=null", "augment.horizontal_flip=0"]
VIEWS = ["augment.views=2", "augment.vertical_flip=0.5", "augment.brightness=0.3"]
BALANCED = ["train.sampling=balanced", "data.fraction=0.5"]


@pytest.fixture
def recipe(write_recipe, dataset, tmp_path, one_thread):
    """Return a function that loads a recipe of linear probing, on a dataset that nothing was computed from."""
    shutil.copytree(dataset / "data", tmp_path / "data")
    path = write_recipe("linear", stem="frozen")

    def load(*overrides):
        return load_recipe(path, ["device=cpu", f"data.root={tmp_path / 'data'}", *overrides])

    return load


@pytest.fixture
def task(recipe, tmp_path):
    """Return a function that gives a task, its model and the list of the batches that the network's lower part has seen since."""

    def build(*overrides):
        assembly, seen = assemble(recipe(*overrides).recipe), []
        model = assembly.adapted.model
        model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        return ClassifyTask(assembly, tmp_path), model, seen

    return build


def epoch_of(task, epoch):
    """All that an epoch feeds the network with: (rows, labels)."""
    batches = [micro.batch for micro in task.micro_batches(epoch, 0)]
    return torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])


def test_each_picture_goes_through_the_frozen_part_once_whatever_the_epochs_rates_and_fractions(task):
    first, model, seen = task(*PLAIN)
    pictures = len(first.train_indices) + len(first.val_indices)
    assert pictures <= 64 and seen == [*TRIAL, 64, 8]  # one batch, filled up; eight are looked at
    seen.clear()
    for epoch in range(3):
        for micro in first.micro_batches(epoch, 0):
            first.loss(model, micro).backward()
        first.validate(model, 0)
    assert seen == []
    for other in (["train.lr=0.1"], ["seed=3", "train.epochs=9"], ["data.fraction=0.5"], ["train.micro_batch_size=3"]):
        _, _, seen = task(*PLAIN, *other)
        assert seen == [*TRIAL, 8]
    _, _, seen = task(*PLAIN, "train.precision=bfloat16")  # other arithmetic, other features
    assert 64 in seen


@pytest.mark.parametrize(
    "overrides",
    [
        PLAIN,
        [*PLAIN, *BALANCED],
        VIEWS,
        [*VIEWS, *BALANCED],
        ["augment.crop_scale=[0.5,1]"],
        [*VIEWS, "method.name=partial"],
        [*PLAIN, "method.name=lst"],
    ],
)
def test_a_run_on_features_is_the_run_on_pictures(recipe, tmp_path, monkeypatch, overrides):
    def done(results):
        run_dir = start_run(recipe(*overrides), tmp_path / results, "medpeft finetune …")
        record = json.loads((run_dir / "record.json").read_text())
        table = np.loadtxt(run_dir / "predictions.csv", delimiter=",", skiprows=1, usecols=(3, 4, 5))
        losses = [
            entry["train_loss"] for entry in map(json.loads, (run_dir / "history.jsonl").read_text().splitlines())
        ]
        return record, table, losses

    record, table, losses = done("features")
    assert record["timing"]["frozen_seconds"] > 0
    monkeypatch.setattr(classify, "frozen_part", lambda *_: None)
    plain_record, plain_table, plain_losses = done("pictures")
    assert "frozen_seconds" not in plain_record["timing"] and record["id"] == plain_record["id"]
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-4)
    np.testing.assert_allclose(table, plain_table, atol=1e-4)
    assert record["selection"]["epoch"] == plain_record["selection"]["epoch"]


def test_views_are_shown_in_turn_and_are_those_of_the_pictures(task, monkeypatch):
    on_features, model, _ = task(*VIEWS)
    assert on_features.frozen.trains
    rows = [epoch_of(on_features, epoch) for epoch in range(4)]
    with monkeypatch.context() as patched:
        patched.setattr(classify, "frozen_part", lambda *_: None)
        on_pictures, _, _ = task(*VIEWS)
    model.eval()
    for epoch in range(4):
        images, labels = epoch_of(on_pictures, epoch)
        with torch.inference_mode():
            expected = on_features.frozen.cut.below(model, images)
        torch.testing.assert_close(rows[epoch][0], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(rows[epoch][1], labels)

    def as_set(epoch):
        return {tuple(row) for row in rows[epoch][0].numpy().round(4).tolist()}

    assert as_set(0) == as_set(2) and as_set(1) == as_set(3) and not as_set(0) & as_set(1)


@pytest.mark.parametrize("augment", [PLAIN, VIEWS])
@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_all_that_epochs_show_is_computed_of_unequal_classes_too(task, augment, sampling):
    found, _, _ = task(*augment, f"train.sampling={sampling}", "train.epochs=5")
    labels = found.manifest.labels
    train = np.concatenate(
        [found.train_indices[labels[found.train_indices] == label][: 4 + 8 * label] for label in range(3)]
    )
    computed = set(found.frozen._shown(train, found.val_indices))
    shown = {(None, index) for index in found.val_indices.tolist()}
    for epoch in range(5):
        order = epoch_order(train, labels, 0, epoch, sampling)
        shown |= set(zip(found.frozen.versions(epoch, visits_of([order])[0]), order.tolist(), strict=True))
    assert shown <= computed
    assert all(version in (None, 0, 1) for version, _ in computed)


def test_with_fresh_augmentation_only_validation_reads_features(task):
    found, model, seen = task()
    assert found.frozen is not None and not found.frozen.trains
    images, _ = epoch_of(found, 0)
    assert images.shape[1:] == (3, 64, 64)
    seen.clear()
    found.validate(model, 0)
    assert seen == []


def test_a_pictures_features_do_not_depend_on_what_was_computed_with_it(recipe, task, tmp_path):
    few, _, _ = task(*PLAIN, "data.k_shot=2")
    indices = few.train_indices.tolist()
    alone = few.frozen.hidden(indices, [None] * len(indices))
    shutil.rmtree(tmp_path / "data.cache")
    every, _, _ = task(*PLAIN)
    assert torch.equal(every.frozen.hidden(indices, [None] * len(indices)), alone)


def test_damaged_features_are_found_before_a_record_is_written(recipe, task, tmp_path):
    task(*PLAIN)
    (rows,) = (tmp_path / "data.cache").glob("frozen-*/rows.bin")
    rows.write_bytes(b"\x00" * rows.stat().st_size)
    with pytest.raises(RunError, match="other features than the network computes"):
        start_run(recipe(*PLAIN), tmp_path / "results", "medpeft finetune …")


def test_where_the_disk_is_nearly_full_nothing_is_kept(task, tmp_path, monkeypatch):
    monkeypatch.setattr("medpeft_cli.engine.frozen.MOST_OF_DISK", 1e-12)
    found, model, _ = task(*PLAIN)
    assert found.frozen is None and not (tmp_path / "data.cache").exists()
    assert epoch_of(found, 0)[0].shape[1:] == (3, 64, 64)


def test_outputs_are_those_of_the_whole_network(task):
    found, model, _ = task(*PLAIN)
    from medpeft_cli.engine.predict import evaluation_batches

    batches = evaluation_batches(found.manifest, found.val_indices, found.spec, found.recipe)
    whole = predict(model, batches, found.spec, found.device, "float32")
    torch.testing.assert_close(found.outputs(model), whole, rtol=1e-4, atol=1e-5)
