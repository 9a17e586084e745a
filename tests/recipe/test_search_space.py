"""What a recipe may search, what it may not, and what a search makes of its runs' names."""

import pytest

from medpeft_cli.errors import RecipeError
from medpeft_cli.recipe.grid import expand
from medpeft_cli.recipe.identity import cell, identity, run_id, study_id
from medpeft_cli.recipe.load import dump_recipe, load_recipe
from medpeft_cli.recipe.search import own_values, takes_whole_numbers, trial_recipe, with_values

SEARCH = "base: base.yaml\nsearch:\n  trials: 3\n  space:\n"


def complaint(path, overrides=()):
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    assert error.value.hint
    return error.value.message.splitlines()


@pytest.mark.parametrize(
    ("searched", "said"),
    [
        ("train.lr: {log: [1e-2, 1e-4]}", "15: search.space.train.lr: log: got [0.01, 0.0001], wanted the lower value first"),
        ("train.lr: {log: [1e-2, 1e-2]}", "15: search.space.train.lr: log: got [0.01, 0.01], wanted the lower value first"),
        ("train.lr: {log: [0, 1]}", "15: search.space.train.lr: log: got [0, 1], wanted values > 0"),
        ("train.lr: {log: [1e-3]}", "21: search.space.train.lr.log: got [0.001], wanted 2 numbers"),
        ("train.lr: {log: [-1, 1]}", "15: search.space.train.lr: log: got [-1, 1], wanted values > 0"),
        ("train.lr: {linear: [0, 1]}", "5: search.space.train.lr: got 0.0, wanted a number > 0"),
        ("train.lr: {lin: [0, 1]}", "16: search.space.train.lr.lin: no such field, got 'lin', did you mean 'linear'?"),
        ("train.lr: {log: [1, 2], choice: [1, 2]}", "15: search.space.train.lr: wanted one of log: [low, high]"),
        ("train.lr: {}", "15: search.space.train.lr: wanted one of log: [low, high]"),
        ("train.lr: 1e-3", "15: search.space.train.lr: got 0.001, wanted a map"),
        ("method.rank: {choice: [4]}", "18: search.space.method.rank: choice: got [4], wanted two different values"),
        ("method.rank: {choice: [4, 8, 4]}", "18: search.space.method.rank: choice: got [4, 8, 4], wanted two different"),
        ("method.rank: {choice: [4, 0]}", "5: search.space.method.rank: got 0, wanted a whole number ≥ 1"),
        ("method.rank: {log: [1, 8.5]}", "5: search.space.method.rank: got 8.5, wanted a whole number ≥ 1"),
        ("method.rnak: {choice: [4, 8]}", "5: search.space.method.rnak: no such field, got 'rnak', did you mean 'rank'?"),
        ("method.name: {choice: [lora, ssf]}", "5: search.space.method.name: no such field, got 'name'"),
        ("train.lrr: {log: [1, 2]}", "5: search.space.train.lrr: no such field, got 'lrr', did you mean 'lr'?"),
        ("train.epochs: {linear: [1, 9]}", "5: search.space.train.epochs: cannot be searched: search.length says"),
        ("train.select: {choice: [loss, accuracy]}", "5: search.space.train.select: cannot be searched: it decides"),
        ("backbone.name: {choice: [a, b]}", "5: search.space.backbone.name: only train.… and method.… can be"),
        ("lr: {log: [1, 2]}", "5: search.space.lr: only train.… and method.… can be searched"),
    ],
)  # fmt: skip
def test_a_bad_space_is_named_with_its_place(write, searched, said):
    (line,) = complaint(write(f"{SEARCH}    {searched}\n"))
    assert line.startswith(f"r.yaml:5:{said}")


def test_trials_without_a_space_are_refused(write):
    (line,) = complaint(write("base: base.yaml\nsearch: {trials: 3}\n"))
    assert line.startswith("r.yaml:2:9: search: space: got nothing, wanted a field and its values")


def test_a_field_has_a_value_or_is_searched_not_both(write):
    path = write(f"{SEARCH}    train.lr: {{log: [1e-5, 1e-2]}}\n")
    assert complaint(path, ["train.lr=1e-3"]) == ["--set train.lr: has a value here, and is searched (search.space)"]
    assert load_recipe(path, ["train.lr=0.5", "search.trials=0"]).recipe.train.lr == 0.5
    grid = write("recipes: [r.yaml]\nmatrix:\n  train.lr: [1e-3]\n", "grid.yaml")
    with pytest.raises(RecipeError, match="grid.yaml:3:14: train.lr: has a value here, and is searched"):
        expand(grid)


def test_the_range_of_a_field_replaces_that_of_the_base_and_other_fields_stay(write):
    write(f"{SEARCH}    train.lr: {{log: [1e-5, 1e-2]}}\n    train.weight_decay: {{linear: [0, 1]}}\n", "below.yaml")
    recipe = load_recipe(write("base: below.yaml\nsearch: {space: {train.lr: {choice: [1e-3, 1e-2]}}}\n")).recipe
    assert recipe.search.model_dump(mode="json")["space"] == {
        "train.lr": {"choice": [1e-3, 1e-2]},
        "train.weight_decay": {"linear": [0.0, 1.0]},
    }


@pytest.fixture
def searching(write):
    text = f"{SEARCH}    train.lr: {{log: [1e-5, 1e-2]}}\n    method.rank: {{choice: [8, 16]}}\n"
    return load_recipe(write(text)).recipe


def test_a_searching_recipe_dumps_and_loads_again(searching, write):
    assert load_recipe(write(dump_recipe(searching), "again.yaml")).recipe == searching


def test_seeds_share_a_study_and_a_search_makes_another_run(searching):
    other = searching.model_copy(update={"seed": 1})
    assert study_id(other) == study_id(searching) != run_id(searching)
    assert study_id(searching).startswith("vit_base-isic-lora-f100-search-") and study_id(searching).endswith(
        cell(other)
    )
    assert identity(other) != identity(searching)
    plain = with_values(searching, {}).model_copy(update={"search": searching.search.model_copy(update={"trials": 0})})
    assert identity(plain) != identity(searching)
    changed = plain.model_copy(update={"search": plain.search.model_copy(update={"length": 0.5})})
    assert identity(changed) == identity(plain)  # without trials the rest says nothing


def test_a_trial_is_the_recipe_with_its_values_shorter_of_seed_zero_and_without_a_search(write):
    path = write("base: base.yaml\nseed: 5\ntrain: {epochs: 10, warmup_epochs: 2}\nsearch: {length: 0.25}\n")
    recipe = load_recipe(path, ["search.trials=2", "search.space={train.lr: {log: [1e-5, 1e-2]}}"]).recipe
    trial = trial_recipe(recipe, {"train.lr": 3e-4, "method.rank": 2})
    assert (trial.train.epochs, trial.train.warmup_epochs, trial.train.lr) == (2, 0.5, 3e-4)
    assert (trial.seed, trial.search.trials, trial.method.parameters["rank"]) == (0, 0, 2)
    same = with_values(
        trial, {"train.lr": recipe.train.lr, "train.epochs": 10, "train.warmup_epochs": 2, "method.rank": 4}
    )
    assert same == recipe.model_copy(update={"seed": 0, "search": trial.search})


def test_of_its_own_values_those_in_their_ranges_are_the_first_trial(searching):
    assert own_values(searching) == {"train.lr": 1e-3}  # rank 4 is not among the choices
    assert own_values(with_values(searching, {"train.lr": 1.0, "method.rank": 16})) == {"method.rank": 16}


def test_whole_numbers_are_told_from_others(searching):
    assert [takes_whole_numbers(searching, field) for field in ("method.rank", "train.batch_size")] == [True, True]
    assert [takes_whole_numbers(searching, field) for field in ("train.lr", "train.clip_norm")] == [False, False]


def test_the_demo_searches_only_when_told_to(root, monkeypatch):
    monkeypatch.chdir(root)
    assert load_recipe("recipes/isic_ssf.yaml").recipe.search.trials == 8
    assert load_recipe("recipes/isic_ssf.yaml", demo=True).recipe.search.trials == 0
    assert load_recipe("recipes/isic_ssf.yaml", ["search.trials=2"], demo=True).recipe.search.trials == 2
