"""Stable Diffusion from folders, the hub's cache and single files; every missing or wrong file is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load, save_file

from medpeft_cli import compat  # noqa: F401  must come before diffusers

# isort: split
import huggingface_hub.constants
from diffusers import DiffusionPipeline

from medpeft_cli.engine.latents import PromptEncoder
from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.models.diffusion import load_diffusion, pipeline_of
from tests.methods.tiny import outputs
from tests.toys import TOY_SIZE, toy_pipeline, toy_single_file

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers
TEXT_TENSOR = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: toy_pipeline(root / kind, kind) for kind in ("sd1", "sd2", "sdxl")}


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of its own that a test may damage."""
    return shutil.copytree(folders["sd1"], tmp_path / "sd1")


def read(file):
    return load(file.read_bytes())  # a mapped file could not be written anew


def picture(pipeline):
    generator = torch.Generator().manual_seed(0)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": TOY_SIZE, "width": TOY_SIZE}
    return pipeline(["edema"], num_inference_steps=2, output_type="np", generator=generator, **size).images


@pytest.mark.parametrize(
    ("kind", "encoders", "prediction"), [("sd1", 1, "epsilon"), ("sd2", 1, "v_prediction"), ("sdxl", 2, "epsilon")]
)
def test_a_folder_gives_the_pictures_that_diffusers_gives(folders, kind, encoders, prediction):
    loaded = load_diffusion(str(folders[kind]))
    assert (loaded.kind, loaded.size, loaded.title) == (kind, TOY_SIZE, kind)
    assert len(loaded.text_encoders) == len(loaded.tokenizers) == encoders
    assert loaded.scheduler.config.prediction_type == prediction
    assert loaded.weights_source == str(folders[kind])
    parts = [loaded.unet, loaded.vae, *loaded.text_encoders]
    assert not any(part.training for part in parts)
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.float32}
    theirs = DiffusionPipeline.from_pretrained(folders[kind])
    assert (picture(pipeline_of(loaded)) == picture(theirs)).all()


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_variant_is_read_by_its_name_into_float32(tmp_path, folders, kind):
    half = toy_pipeline(tmp_path / "half", kind, variant="fp16")
    loaded, plain = load_diffusion(str(half), variant="fp16"), load_diffusion(str(folders[kind]))
    assert loaded.weights_source.endswith("half (fp16)")
    assert loaded.weights_sha256 != plain.weights_sha256
    with torch.no_grad():
        torch.testing.assert_close(outputs(loaded.unet), outputs(plain.unet), rtol=0.05, atol=0.01)
    with pytest.raises(DataError, match=r"unet/diffusion_pytorch_model.safetensors: no such file") as error:
        load_diffusion(str(half))
    assert error.value.hint == "set pipeline.variant: fp16"
    with pytest.raises(DataError, match=r"unet/diffusion_pytorch_model.fp16.safetensors: no such file") as error:
        load_diffusion(str(folders[kind]), variant="fp16")
    assert error.value.hint == "set pipeline.variant: null"


@pytest.mark.parametrize(
    "missing",
    [
        "model_index.json", f"unet/{WEIGHTS}", "unet/config.json", f"vae/{WEIGHTS}", "vae/config.json",
        "text_encoder/model.safetensors", "text_encoder/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ],
)  # fmt: skip
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing}: no such file"):
        load_diffusion(str(folder))


def test_a_missing_part_of_xl_is_named(folders, tmp_path):
    folder = shutil.copytree(folders["sdxl"], tmp_path / "xl")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(DataError, match=r"text_encoder_2/config.json: no such file"):
        load_diffusion(str(folder))


def test_pickles_are_not_read(folder, tmp_path):
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match="no such file") as error:
        load_diffusion(str(folder))
    assert error.value.hint.startswith("diffusion_pytorch_model.bin is a pickle")
    with pytest.raises(DataError, match="model.ckpt: a pickle can run code"):
        load_diffusion(str(tmp_path / "model.ckpt"))


def test_damaged_and_incomplete_weights_are_named(folder):
    file = folder / "unet" / WEIGHTS
    content, tensors = file.read_bytes(), read(file)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"unet/{WEIGHTS}: not a readable safetensors file"):
        load_diffusion(str(folder))
    first = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"unet: 1 tensors of the network are not in its weights file \({first}"):
        load_diffusion(str(folder))
    save_file(tensors | {first: torch.zeros(3)}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match="unet: not a readable UNet2DConditionModel"):
        load_diffusion(str(folder))


def test_weights_in_several_files(folder):
    tensors = read(folder / "unet" / WEIGHTS)
    expected = load_diffusion(str(folder)).weights_sha256
    (folder / "unet" / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[:90],
             "diffusion_pytorch_model-00002-of-00002.safetensors": names[90:]}  # fmt: skip
    for part, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / "unet" / part, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {name: part for part, own in parts.items() for name in own}}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert load_diffusion(str(folder)).weights_sha256 == expected
    (folder / "unet" / next(iter(parts))).unlink()
    with pytest.raises(DataError, match="00001-of-00002.safetensors: no such file"):
        load_diffusion(str(folder))


def test_names_of_the_published_checkpoints_are_understood(folder):
    """The published 1.5 has older names in its VAE's attention, and a prefix and a buffer in its text encoder."""
    expected = load_diffusion(str(folder))
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = read(folder / "vae" / WEIGHTS)
    for new, old in older.items():
        vae = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): value for name, value in vae.items()}
    assert any("proj_attn" in name for name in vae)
    save_file(vae, folder / "vae" / WEIGHTS, metadata={"format": "pt"})
    text = read(folder / "text_encoder" / "model.safetensors")
    text = {f"text_model.{name}": value for name, value in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(text, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    loaded = load_diffusion(str(folder))
    for new, old in ((loaded.vae, expected.vae), (loaded.text_encoders[0], expected.text_encoders[0])):
        state = old.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in new.state_dict().items())


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "holds a FluxPipeline, wanted Stable Diffusion 1.x"),
        ("model_index.json", {"text_encoder": [None, None]}, "wanted Stable Diffusion 1.x, 2.x or XL"),  # the refiner
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "predicts 'sample', wanted epsilon or"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler .* has no betas"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "has no betas"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean"),
    ],
)
def test_other_pipelines_are_refused(folder, file, changes, message):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))
    with pytest.raises((DataError, RecipeError), match=message):
        load_diffusion(str(folder))


@pytest.mark.parametrize("part", ["tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"])
def test_a_damaged_text_file_is_told(folder, part):
    (folder / part).write_text("[]")
    with pytest.raises(DataError, match=part.partition("/")[0]) as error:
        load_diffusion(str(folder))
    assert "not readable" in error.value.message


@pytest.mark.parametrize("zeros", [True, False])
def test_xl_says_what_stands_for_no_prompt(folders, tmp_path, zeros):
    folder = shutil.copytree(folders["sdxl"], tmp_path / "xl")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": zeros}))
    empty = PromptEncoder(load_diffusion(str(folder)), torch.device("cpu")).empty()
    assert (empty.tokens == 0).all() == (empty.pooled == 0).all() == zeros


def test_an_inpainting_unet_is_refused(folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
    tensors = read(folder / "unet" / WEIGHTS)
    save_file(
        tensors | {"conv_in.weight": torch.zeros(16, 9, 3, 3)}, folder / "unet" / WEIGHTS, metadata={"format": "pt"}
    )
    with pytest.raises(RecipeError, match="reads 9 channels, its VAE makes 4") as error:
        load_diffusion(str(folder))
    assert "inpainting" in error.value.hint


def test_a_scheduler_that_diffusers_does_not_have_is_refused(folder):
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "logging"}))
    with pytest.raises(DataError, match="diffusers has no scheduler 'logging'"):
        load_diffusion(str(folder))


def test_a_hub_id_comes_from_the_cache_when_offline(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="pipeline.name: 'some/model' cannot be fetched") as error:
        load_diffusion("some/model")
    assert "same HF_HOME" in error.value.hint
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folders["sd1"], cached / "snapshots" / ("0" * 40))
    assert load_diffusion("some/model").title == "model"
    (cached / "snapshots" / ("0" * 40) / "vae" / WEIGHTS).unlink()
    with pytest.raises(DataError, match=rf"vae/{WEIGHTS}: no such file"):
        load_diffusion("some/model")


@pytest.mark.parametrize("name", ["nowhere", "./folder/that/is/not", "/nothing/here", "a/b/c"])
def test_what_is_neither_folder_nor_id_is_refused(name):
    with pytest.raises(RecipeError, match="is no folder, .safetensors file or hub id"):
        load_diffusion(name)


@pytest.mark.parametrize(
    ("part", "stem"),
    [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")],
)
def test_the_hash_is_of_every_network(folders, folder, part, stem):
    file = folder / part / f"{stem}.safetensors"
    tensors = read(file)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, file, metadata={"format": "pt"})
    assert load_diffusion(str(folder)).weights_sha256 != load_diffusion(str(folders["sd1"])).weights_sha256


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_single_file_gives_the_same_pipeline(folders, tmp_path, kind):
    file = toy_single_file(folders[kind], tmp_path / "model.safetensors", kind)
    loaded, expected = load_diffusion(str(file), config=str(folders[kind])), load_diffusion(str(folders[kind]))
    assert (loaded.kind, loaded.size, loaded.title) == (kind, TOY_SIZE, "model")
    assert loaded.weights_sha256 == expected.weights_sha256
    assert loaded.scheduler.config == expected.scheduler.config
    assert (picture(pipeline_of(loaded)) == picture(pipeline_of(expected))).all()


def test_a_single_file_says_what_it_lacks(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="model.safetensors: no such file"):
        load_diffusion(str(tmp_path / "model.safetensors"))
    file = toy_single_file(folders["sd1"], tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="cannot be read as StableDiffusionPipeline") as error:
        load_diffusion(str(file))
    assert "set pipeline.config to a folder" in error.value.hint
    tensors = read(file)
    for name in ("model.diffusion_model.out.2.weight", "first_stage_model.encoder.conv_in.bias", TEXT_TENSOR):
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
        with pytest.raises(DataError, match="model.safetensors: .*tensors of the .* are not in it"):
            load_diffusion(str(file), config=str(folders["sd1"]))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load_diffusion(str(file))
