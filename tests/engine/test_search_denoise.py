"""A search of text-to-image: trials by the loss on fixed noise, without sample pictures."""

from medpeft_cli.engine.search import search
from medpeft_cli.engine.text_to_image import _trial
from medpeft_cli.recipe.load import load_recipe
from tests.captioned import write_recipe


def test_the_lowest_loss_of_the_last_step_is_chosen(captioned, tmp_path):
    path = write_recipe(captioned, "searching")
    space = "search={trials: 2, length: 0.5, space: {train.lr: {log: [1e-5, 1e-1]}}}"
    found = search(load_recipe(path, [space]).recipe, tmp_path / "study", _trial)
    assert (found["metric"], found["direction"]) == ("loss", "minimize")
    first, second = found["trials"]
    assert first["values"] == {"train.lr": 1e-3} and first["value"] != second["value"]
    assert found["chosen"] == min((first, second), key=lambda trial: trial["value"])["values"]
    assert not list(tmp_path.rglob("*.png"))
