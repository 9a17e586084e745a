"""What a tracker is sent, and what happens where it is not installed."""

import json
import struct
from importlib.util import find_spec

import pytest

from medpeft_cli.engine.track import PACKAGES
from tests.e2e.conftest import run


def events(folder):
    """Every scalar in the event files of a folder: (tag, step) → value."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="needs tensorboardX (extra dev)")
    found = {}
    for path in folder.glob("events.*"):
        content = path.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            found |= {
                (value.tag, event.step): value.simple_value for value in event.summary.value if value.simple_value
            }
            content = content[16 + length :]
    return found


def test_tensorboard_gets_the_history_and_the_test_scores(dataset, write_recipe):
    pytest.importorskip("tensorboardX", reason="needs tensorboardX (extra dev)")
    recipe = write_recipe("linear", stem="tracked")
    done = run("finetune", recipe, "--results", "tracked", "--track", "tensorboard", "--json", cwd=dataset)
    assert done.returncode == 0, done.stderr
    folder = dataset / json.loads(done.stdout)["run"]
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    sent = events(folder / "tensorboard")
    assert len(history) == 4
    for entry in history:
        for tag, value in {"train_loss": entry["train_loss"], "val/f1_macro": entry["val"]["f1_macro"]}.items():
            assert sent[tag, entry["step"]] == pytest.approx(value, rel=1e-6)
    record = json.loads((folder / "record.json").read_text())
    assert sent["test/f1_macro", history[-1]["step"]] == pytest.approx(
        record["metrics"]["test"]["overall"]["f1_macro"]["value"]
    )
    (settings,) = folder.glob("tensorboard/*/hparams.yml")
    assert "train.lr: 0.003" in settings.read_text() and str(dataset) not in settings.read_text()
    plain = run("finetune", recipe, "--results", "tracked", "--json", cwd=dataset)  # the same run: finished already
    assert json.loads(plain.stdout)["run"] == json.loads(done.stdout)["run"] and "finished already" in plain.stderr


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_done(dataset, write_recipe):
    missing = [name for name, packages in PACKAGES.items() if not any(map(find_spec, packages))]
    if not missing:
        pytest.skip("every tracker is installed")
    done = run("finetune", write_recipe("linear", stem="untracked"), "--track", missing[0], cwd=dataset)
    assert done.returncode == 2 and f"track: {missing[0]} is not installed" in done.stderr
    assert f"pip install {missing[0]}" in done.stderr and "data      " not in done.stderr
