"""A search on a toy task, whose validation score is known: how near the rate is to 0.01."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from medpeft_cli.engine.loop import Micro, Plan
from medpeft_cli.engine.search import _Study, search
from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.methods.inject import Injected
from medpeft_cli.recipe.load import load_recipe

RECIPE = """\
task: classify
backbone: {name: demo_vit}
data: {card: isic}
method: {name: lora, rank: 4}
train: {lr: 1e-3, epochs: 4, checkpoint_seconds: 0, select: f1_macro}
search: {trials: 6, space: {train.lr: {log: [1e-4, 1.0]}, method.rank: {linear: [2, 6]}}}
"""


class Killed(BaseException):
    """What kill -9 is to the loop: no handler sees it."""


class ToyTask:
    """Epochs of two steps on one weight."""

    def __init__(self, recipe, die_at=None, loss_factor=1.0):
        self.plan = Plan(2 * recipe.train.epochs, 2, 0, recipe.train.select)
        self.recipe, self.die_at, self.loss_factor = recipe, die_at, loss_factor
        self.steps = 0

    def micro_batches(self, epoch, first_step):
        for step in range(first_step, 2):
            yield Micro(step, 0, True, 1, ())

    def loss(self, model, micro):
        if self.steps == self.die_at:
            raise Killed
        self.steps += 1
        return model(torch.ones(1, 1)).square().sum() * self.loss_factor

    def validate(self, model, step):
        score = 1 / (1 + abs(math.log10(self.recipe.train.lr) + 2))
        return {"f1_macro": score, "loss": 1 - score}


@pytest.fixture
def recipe_of(tmp_path):
    """Return recipe_of(*overrides) -> the toy's recipe."""

    def recipe_of(*overrides):
        (tmp_path / "toy.yaml").write_text(RECIPE)
        return load_recipe(tmp_path / "toy.yaml", overrides).recipe

    return recipe_of


class Builder:
    """Builds the toy and remembers the recipes it was asked for; `options` are the task's, by number of the call."""

    def __init__(self, data="d", **options):
        self.asked, self.tasks, self.data, self.options = [], [], data, options

    def __call__(self, recipe, folder):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 1))
        injected = Injected(names=["0.weight", "0.bias"], matched=[])
        method = METHODS["bias"]
        adapted = Adapted(model, "vit", method, method.config(), injected.names, [], [], [], [], [], injected)
        task = ToyTask(recipe, **self.options.get(f"call{len(self.asked)}", {}))
        self.asked.append(recipe)
        self.tasks.append(task)
        inputs = {"manifest": SimpleNamespace(sha256=self.data), "pretrained": SimpleNamespace(weights_sha256="w")}
        return SimpleNamespace(adapted=adapted, device=torch.device("cpu"), **inputs), task


def numbers(folder):
    """The numbers of the trials that were ever laid out, by the journal itself."""
    lines = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    return sum(line["op_code"] == 4 for line in lines)  # create a trial


def test_all_trials_are_done_recorded_and_the_best_on_validation_is_chosen(recipe_of, tmp_path):
    found = search(recipe_of("seed=7"), tmp_path / "study", build := Builder())
    assert [trial["number"] for trial in found["trials"]] == list(range(6)) and len(build.asked) == 6
    assert numbers(tmp_path / "study") == 6
    for trial, asked in zip(found["trials"], build.asked, strict=True):
        rank = trial["values"]["method.rank"]
        assert isinstance(rank, int) and 2 <= rank <= 6 and 1e-4 <= trial["values"]["train.lr"] <= 1
        assert (asked.train.lr, asked.method.parameters["rank"], asked.seed) == (trial["values"]["train.lr"], rank, 0)
        assert trial["value"] == pytest.approx(1 / (1 + abs(math.log10(asked.train.lr) + 2)))
    best = max(found["trials"], key=lambda trial: trial["value"])
    assert (found["chosen"], found["value"], found["trial"]) == (best["values"], best["value"], best["number"])
    assert found["trials"][0]["values"] == {"train.lr": 1e-3, "method.rank": 4}  # the recipe's own
    assert (
        found["seconds"] == pytest.approx(sum(trial["seconds"] for trial in found["trials"])) and found["seconds"] > 0
    )
    assert len({trial["values"]["train.lr"] for trial in found["trials"]}) == 6
    assert not list((tmp_path / "study").glob("trials/*/checkpoint"))
    json.dumps(found, allow_nan=False)


def test_a_loss_is_minimised(recipe_of, tmp_path):
    found = search(recipe_of("train.select=loss"), tmp_path / "study", Builder())
    assert (found["metric"], found["direction"]) == ("loss", "minimize")
    assert found["value"] == min(trial["value"] for trial in found["trials"])


def test_another_seed_finds_the_trials_done(recipe_of, tmp_path):
    first = search(recipe_of(), tmp_path / "study", Builder())
    assert search(recipe_of("seed=1"), tmp_path / "study", again := Builder()) == first
    assert again.asked == []


def test_the_same_trials_are_proposed_again(recipe_of, tmp_path):
    studies = [search(recipe_of(), tmp_path / where / "study", Builder()) for where in "ab"]
    values = [[trial["values"] for trial in study["trials"]] for study in studies]
    assert values[0] == values[1]


def test_a_killed_trial_is_gone_on_with_where_it_was_and_is_no_extra_trial(recipe_of, tmp_path):
    whole = search(recipe_of(), tmp_path / "a" / "study", Builder())
    with pytest.raises(Killed):
        search(recipe_of(), tmp_path / "b" / "study", first := Builder(call2={"die_at": 5}))
    found = search(recipe_of(), tmp_path / "b" / "study", second := Builder())
    assert [task.steps for task in second.tasks] == [3, 8, 8, 8]  # 5 of 8 steps were done
    assert second.asked[0] == first.asked[2]
    assert numbers(tmp_path / "b" / "study") == 6
    assert [trial["values"] for trial in found["trials"]] == [trial["values"] for trial in whole["trials"]]
    assert found["chosen"] == whole["chosen"]


def test_a_trial_behind_the_others_is_pruned_and_counts(recipe_of, tmp_path):
    found = search(recipe_of("search.prune=true", "search.trials=8"), tmp_path / "study", build := Builder())
    states = [trial["state"] for trial in found["trials"]]
    assert len(states) == 8 and states[:2] == ["finished"] * 2 and "pruned" in states
    for state, task in zip(states, build.tasks, strict=True):
        assert task.steps == (8 if state == "finished" else 2)  # two steps are a quarter
    assert found["trials"][found["trial"]]["state"] == "finished"


def test_a_trial_that_diverges_counts_and_is_never_chosen(recipe_of, tmp_path):
    found = search(recipe_of(), tmp_path / "study", Builder(call0={"loss_factor": math.nan}))
    assert found["trials"][0] | {"seconds": 0} == {
        "number": 0, "state": "diverged", "values": {"train.lr": 1e-3, "method.rank": 4}, "value": None, "seconds": 0,
    }  # fmt: skip
    assert found["trial"] != 0 and [trial["state"] for trial in found["trials"][1:]] == ["finished"] * 5


def test_it_is_an_error_when_every_trial_diverges(recipe_of, tmp_path):
    diverging = Builder(**{f"call{i}": {"loss_factor": math.nan} for i in range(6)})
    with pytest.raises(RunError, match="none of the 6 trials ended with a finite f1_macro"):
        search(recipe_of(), tmp_path / "study", diverging)


def test_values_that_the_method_cannot_take_are_named(recipe_of, tmp_path):
    def build(recipe, folder):
        raise RecipeError("method.rank: too large", "a smaller one")

    with pytest.raises(RecipeError, match=r"search, trial 1/6: train.lr 0.001, method.rank 4: method.rank: too large"):
        search(recipe_of(), tmp_path / "study", build)


def test_a_study_does_not_go_on_with_other_data(recipe_of, tmp_path):
    with pytest.raises(Killed):
        search(recipe_of(), tmp_path / "study", Builder(call1={"die_at": 1}))
    with pytest.raises(DataError, match="have changed since this search was begun"):
        search(recipe_of(), tmp_path / "study", Builder(data="other"))


def test_a_line_that_a_full_disk_left_half_written_is_cut_off(recipe_of, tmp_path):
    with pytest.raises(Killed):
        search(recipe_of(), tmp_path / "study", Builder(call3={"die_at": 1}))
    journal = tmp_path / "study" / "journal.log"
    with journal.open("a") as file:
        file.write('{"op_code": 5, "work')
    found = search(recipe_of(), tmp_path / "study", Builder())
    assert len(found["trials"]) == 6 and all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_half_line_of_a_process_that_died_does_not_spoil_the_next_line_of_those_that_live(recipe_of, tmp_path):
    journal = tmp_path / "study" / "journal.log"
    other = _Study(recipe_of(), tmp_path / "study", Builder())  # open all the time

    class Beside(Builder):
        def __call__(self, recipe, folder):
            if len(self.asked) in (2, 4):
                with journal.open("a") as file:
                    file.write('{"op_code": 5, "work')
                assert len(other.trials) == 6
            return super().__call__(recipe, folder)

    found = search(recipe_of(), tmp_path / "study", Beside())
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    assert other.summary() == found and len(found["trials"]) == 6


def test_a_damaged_journal_is_an_error_with_a_next_step(recipe_of, tmp_path):
    search(recipe_of(), tmp_path / "study", Builder())
    journal = tmp_path / "study" / "journal.log"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:5], "no JSON\n", *lines[5:]]))
    with pytest.raises(DataError, match="journal.log: damaged journal") as caught:
        search(recipe_of(), tmp_path / "study", Builder())
    assert "delete" in caught.value.hint
