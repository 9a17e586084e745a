"""How a start ends is in the record; starts that lead nowhere end."""

import json
import os
import signal

import pytest

from medpeft_cli.engine.run import MOST_IDLE_STARTS, recorded_run
from medpeft_cli.errors import RunError
from medpeft_cli.recipe.load import load_recipe
from medpeft_cli.runs.stop import Stopped, leave_if_asked, note_progress, stoppable
from tests.sweep.conftest import RECIPE


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return start(progress) -> the record of a run whose job is asked to leave, and how often SLURM was asked for another."""
    (tmp_path / "full.yaml").write_text(f"{RECIPE}method: {{name: full}}\n")
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho again >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    loaded = load_recipe(tmp_path / "full.yaml")

    def once(progress=False):
        with pytest.raises((Stopped, RunError)) as left, stoppable():  # noqa: SIM117
            with recorded_run(loaded, tmp_path / "results", "medpeft finetune …") as record:
                if progress:
                    note_progress()
                os.kill(os.getpid(), signal.SIGUSR2)
                leave_if_asked()
        asked = (tmp_path / "asked").read_text().count("again")
        return left.value, json.loads((record.run_dir / "record.json").read_text()), asked

    return once


def test_a_run_that_gets_nowhere_is_not_started_for_ever(start):
    for number in range(1, MOST_IDLE_STARTS):
        left, record, asked = start()
        assert isinstance(left, Stopped) and (record["status"], asked) == ("running", number)
    left, record, asked = start()
    assert isinstance(left, RunError) and "--time" in left.hint and asked == MOST_IDLE_STARTS - 1
    assert record["status"] == "failed" and "5 starts in a row before anything could be kept" in record["error"]
    _, record, asked = start()  # put back, with more time
    assert asked == MOST_IDLE_STARTS and record["idle_starts"] == 1


def test_a_run_that_gets_somewhere_is_started_as_often_as_it_takes(start):
    for number in range(1, 3 * MOST_IDLE_STARTS):
        left, record, asked = start(progress=number % MOST_IDLE_STARTS == 0)
        assert isinstance(left, Stopped) and asked == number
    assert start(progress=True)[1].get("idle_starts") is None
