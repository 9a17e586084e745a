"""A finished run is told from its record; a weights file is hashed again only where it was touched."""

import json
import os

import pytest

from medpeft_cli.errors import DataError
from medpeft_cli.recipe.load import load_recipe
from medpeft_cli.runs.skip import file_facts, finished_run, run_directory

RECIPE = """\
task: classify
backbone: {name: vit_base_patch16_224.augreg_in21k, weights: weights.safetensors}
data: {card: isic}
method: {name: bias}
"""


@pytest.fixture
def skipped(tmp_path, monkeypatch):
    """Return skipped(**facts) -> finished_run of a run whose record says these of its weights file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "weights.safetensors").write_bytes(b"pre-trained")
    loaded = load_recipe(tmp_path / "r.yaml")
    folder = run_directory(loaded.path, loaded.recipe, tmp_path)
    folder.mkdir(parents=True)

    def finished(facts):
        data = dict.fromkeys(("id", "identity", "cell", "demo", "command"), "") | {"schema_version": 1}
        data |= {"status": "finished", "recipe": loaded.recipe.model_dump(mode="json"), "weights": facts}
        (folder / "record.json").write_text(json.dumps(data))
        return finished_run(loaded, tmp_path, evaluate=True)

    return finished


def test_an_untouched_file_is_not_read_again(skipped, tmp_path):
    path = tmp_path / "weights.safetensors"
    facts = file_facts(path) | {"file_sha256": "what no file has"}
    assert skipped(facts).parent == tmp_path / "r"
    with pytest.raises(DataError, match="the weights file weights.safetensors has changed"):
        skipped({"file_sha256": "what no file has"})  # as records were before


def test_a_touched_file_is_the_same_if_its_content_is(skipped, tmp_path):
    path = tmp_path / "weights.safetensors"
    facts = file_facts(path)
    os.utime(path, (0, 0))
    assert skipped(facts)
    path.write_bytes(b"PRE-TRAINED")  # as long
    with pytest.raises(DataError, match="the weights file weights.safetensors has changed"):
        skipped(facts)


def test_weights_of_the_hub_have_no_file(skipped, tmp_path):
    assert file_facts(tmp_path / "none") == {"file_sha256": None}
    assert skipped({"file_sha256": None})
