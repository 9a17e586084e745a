"""Every set of weights is loaded once; what cannot be had is named, and does not keep the others back."""

from safetensors.torch import load_file
from typer.testing import CliRunner

from medpeft_cli.cli import app
from medpeft_cli.demo.networks import NETWORKS
from medpeft_cli.engine.fetch import fetch_weights
from medpeft_cli.recipe.load import load_recipe
from tests.captioned import write_recipe


def recipes(tmp_path, *names):
    text = "task: classify\ndata: {{card: isic}}\nmethod: {{name: linear}}\nbackbone: {{name: {}}}\nseed: {}\n"
    for number, name in enumerate(names):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text.format(name, number))
        yield load_recipe(path).recipe


def test_each_network_once_with_its_size(tmp_path):
    found, problems = fetch_weights(recipes(tmp_path, "demo_vit", "demo_resnet", "demo_vit"))
    assert [(one.name, one.kind) for one in found] == [("demo_vit", "backbone"), ("demo_resnet", "backbone")]
    trunk = NETWORKS["demo_vit"](num_classes=0)
    assert found[0].bytes == 4 * sum(tensor.numel() for tensor in trunk.state_dict().values())
    assert problems == []


def test_what_is_not_to_be_had_is_told_beside_the_rest(tmp_path):
    found, problems = fetch_weights(recipes(tmp_path, "vit_nonsense_patch16_224", "demo_vit"))
    assert [one.name for one in found] == ["demo_vit"]
    assert len(problems) == 1 and "vit_nonsense_patch16_224" in problems[0].message


def test_a_pipeline_and_what_scores_it_are_told_with_their_size_and_all_together(captioned):
    path = write_recipe(captioned, "fetched")
    path.write_text(path.read_text().replace("evaluate: {", "evaluate: {encoder: demo, clip: demo, "))
    found, problems = fetch_weights([load_recipe(path).recipe])
    assert [one.kind for one in found] == ["pipeline", "encoder", "clip"] and problems == []
    stored = [load_file(file) for file in (captioned / "sd1").glob("*/*.safetensors")]
    assert found[0].bytes == sum(tensor.nbytes for tensors in stored for tensor in tensors.values())
    assert found[1].bytes > 0 and found[2].bytes > 0
    (captioned / "fetched_grid.yaml").write_text("recipes: [fetched.yaml]\n")
    result = CliRunner().invoke(app, ["prepare", "--models", str(captioned / "fetched_grid.yaml")])
    assert result.stdout.splitlines()[-1] == f"total {sum(one.bytes for one in found) / 1e9:,.3g} GB"
