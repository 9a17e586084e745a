"""Adapters of U-Nets: rebuilt from their folder, opened by diffusers and peft, exported as a plain pipeline."""

import json

import pytest
import torch
from safetensors import safe_open

from medpeft_cli import compat  # noqa: F401  must come before peft

# isort: split
import peft
from diffusers import DiffusionPipeline

from medpeft_cli.engine.export import export_merged
from medpeft_cli.engine.restore import RestoredPipeline, pipeline_info, restore_adapter
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt
from medpeft_cli.methods.state import LORA_FILE, save_adapter
from medpeft_cli.models.diffusion import load_diffusion, pipeline_of
from medpeft_cli.recipe.schema import GenerateRecipe
from medpeft_cli.runs.record import Record
from tests.methods.tiny import config_of, distance, outputs, perturb
from tests.toys import TOY_SIZE, toy_pipeline

OWN = ["full", "bias", "norm", "attention", "bias_norm_attention", "svdiff", "difffit"]
LORAS = ["lora", "rslora", "dora"]
OTHERS = ["pissa", "loha", "oft", "vera"]
ROUNDING = 1e-5  # of float32

pytestmark = pytest.mark.filterwarnings("ignore:.*(CUDA extension|boft_n_butterfly_factor)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: toy_pipeline(root / kind, kind) for kind in ("sd1", "sdxl")}


def run_of(method, folder, run_dir, **record):
    """A run directory as training leaves it, and what its U-Net predicts."""
    config = config_of(method)
    recipe = GenerateRecipe(
        task="generate",
        data={"card": "mimic_cxr", "root": "/secret/place"},
        pipeline={"name": str(folder)},
        method={"name": method, **config.model_dump()},
        seed=5,
    )
    diffusion = load_diffusion(str(folder))
    torch.manual_seed(seed_of(5, "adapter"))
    cell = adapt(diffusion.unet, "unet", METHODS[method], config)
    perturb(cell)
    save_adapter(cell, run_dir / "adapter", pipeline_info(recipe, diffusion, TOY_SIZE, "run-1"))
    content = {
        "schema_version": 1, "id": "run-1", "identity": "0" * 8, "cell": "1" * 8, "status": "finished", "demo": False,
        "command": "medpeft finetune", "recipe": recipe.model_dump(mode="json"),
        "parameters": cell.counts(), "method_title": METHODS[method].titles["unet"],
    }  # fmt: skip
    Record(run_dir, content | record).save()
    with torch.no_grad():
        return outputs(cell.model.eval())


@pytest.mark.parametrize(
    ("method", "kind"),
    [*((name, "sd1") for name in (*OWN, "lora", "fourierft")), ("attention", "sdxl"), ("lora", "sdxl")],
)
def test_the_folder_alone_gives_the_unet_back(method, kind, folders, tmp_path):
    expected = run_of(method, folders[kind], tmp_path)
    torch.manual_seed(99)
    restored = restore_adapter(tmp_path / "adapter")
    assert isinstance(restored, RestoredPipeline)
    assert restored.diffusion.unet is restored.model and not restored.model.training
    with torch.no_grad():
        assert torch.equal(outputs(restored.model), expected)
        tuned = restored.tuned()
        assert tuned.unet is not restored.model
        assert list(tuned.unet.state_dict()) == list(load_diffusion(str(folders[kind])).unet.state_dict())
        assert distance(outputs(tuned.unet), expected) < ROUNDING
    assert restored.info.size == TOY_SIZE and restored.info.seed == 5


def test_other_weights_are_refused_and_the_place_can_be_told(folders, tmp_path):
    expected = run_of("bias", folders["sd1"], tmp_path)
    moved = toy_pipeline(tmp_path / "moved")
    with torch.no_grad():
        assert torch.equal(outputs(restore_adapter(tmp_path / "adapter", moved).model), expected)
    other = toy_pipeline(tmp_path / "other", "sd2")
    with pytest.raises(DataError, match="weights are not those the adapter was trained on") as error:
        restore_adapter(tmp_path / "adapter", other)
    assert "give that with --weights" in error.value.hint
    file = tmp_path / "adapter" / "medpeft.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": "big"}))
    with pytest.raises(DataError, match="medpeft.json: size: "):
        restore_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("method", LORAS)
def test_loras_open_with_diffusers(method, folders, tmp_path):
    expected = run_of(method, folders["sd1"], tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(folders["sd1"])
    pipeline.load_lora_weights(str(tmp_path / "adapter"), weight_name=LORA_FILE)
    with torch.no_grad():
        assert torch.equal(outputs(pipeline.unet), expected)


@pytest.mark.parametrize("method", LORAS + OTHERS)
def test_methods_of_peft_open_with_peft_inside_a_pipeline(method, folders, tmp_path):
    expected = run_of(method, folders["sd1"], tmp_path)
    assert (tmp_path / "adapter" / LORA_FILE).exists() == (method in LORAS)
    pipeline = DiffusionPipeline.from_pretrained(folders["sd1"])
    pipeline.unet = peft.PeftModel.from_pretrained(pipeline.unet, tmp_path / "adapter")
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        assert torch.equal(outputs(pipeline.unet), expected)
    size = {"height": TOY_SIZE, "width": TOY_SIZE}
    assert pipeline(["edema"], num_inference_steps=1, output_type="np", **size).images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("method", "kind"), [("svdiff", "sd1"), ("difffit", "sdxl"), ("lora", "sdxl"), ("bias", "sd1")]
)
def test_the_export_is_a_plain_pipeline(method, kind, folders, tmp_path):
    expected = run_of(method, folders[kind], tmp_path / "run")
    target = tmp_path / "deep" / "exported"
    export_merged(tmp_path / "run", target)
    assert [path.name for path in target.parent.iterdir()] == ["exported"]
    pipeline = DiffusionPipeline.from_pretrained(target)
    assert type(pipeline) is type(pipeline_of(load_diffusion(str(folders[kind]))))
    with torch.no_grad():
        assert distance(outputs(pipeline.unet), expected) < ROUNDING
    plain = [folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in (folders[kind], target)]
    keys = []
    for file in plain:
        with safe_open(file, framework="pt") as tensors:
            keys.append(sorted(tensors.keys()))
    assert keys[0] == keys[1]
    with torch.no_grad():
        again = load_diffusion(str(target))
        assert distance(outputs(again.unet), expected) < ROUNDING
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (target / "tokenizer").iterdir()}
    untuned = load_diffusion(str(folders[kind]))
    for old, new in zip(untuned.text_encoders + [untuned.vae], again.text_encoders + [again.vae], strict=True):
        assert all(torch.equal(tensor, new.state_dict()[name]) for name, tensor in old.state_dict().items())


def test_the_card_has_recipe_and_numbers(folders, tmp_path):
    test = {
        "overall": {"fid": {"value": 20.8143, "low": 19.5, "high": 22.25}, "clip_score": {"value": None}},
        "protocol": {"encoder": "xrv-densenet121", "images": {"real": 1000, "generated": 1000}},
    }
    more = {"metrics": {"test": test}, "card": {"title": "MIMIC|CXR"}, "data": {"train_images": 110_000}}
    run_of("bias", folders["sd1"], tmp_path / "run", **more)
    export_merged(tmp_path / "run", tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\npipeline_tag: text-to-image\n")
    for part in (
        "# sd1 · Bias · MIMIC\\|CXR", "| fid | 20.81 | 19.5 to 22.25 |", "| clip\\_score | – | – |",
        "| encoder | xrv-densenet121 |", '| images | \\{"real": 1000, "generated": 1000\\} |',
        "110,000 training pictures", "num_inference_steps=75, guidance_scale=4.0, height=16, width=16",
        "not for diagnosis", "name: bias", "seed: 5",
    ):  # fmt: skip
        assert part in card, part
    assert "/secret/place" not in card and "DEMO" not in card
    written = [path.read_text() for path in (tmp_path / "exported").rglob("*") if path.suffix in (".json", ".md")]
    assert not any(str(tmp_path.parent) in text for text in written)


def test_a_card_of_a_demo_that_is_not_evaluated_says_so(folders, tmp_path):
    run_of("lora", folders["sd1"], tmp_path / "run", demo=True)
    export_merged(tmp_path / "run", tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "**DEMO" in card and "Not evaluated yet" in card
    assert "LoRA, rank 16, alpha 16" in card


def test_targets_of_the_wrong_kind_are_refused(folders, tmp_path):
    run_of("bias", folders["sd1"], tmp_path / "run")
    with pytest.raises(RecipeError, match="wanted a folder for the pipeline"):
        export_merged(tmp_path / "run", tmp_path / "merged.safetensors")
    with pytest.raises(RecipeError, match="there is something in it"):
        export_merged(tmp_path / "run", tmp_path / "run")
    with pytest.raises(DataError, match="not trained yet"):
        export_merged(tmp_path, tmp_path / "exported")


def test_what_cannot_be_merged_leaves_nothing_behind(folders, tmp_path):
    run_of("beft", folders["sd1"], tmp_path / "run")
    with pytest.raises(RecipeError, match="'beft' cannot be merged here"):
        export_merged(tmp_path / "run", tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
