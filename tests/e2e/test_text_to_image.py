"""finetune → generate → evaluate on captioned pictures and tiny pipelines; killed anywhere it ends the same."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from medpeft_cli.errors import DataError, RecipeError, RunError
from medpeft_cli.recipe.load import load_recipe
from medpeft_cli.runs.start import start_run
from tests.captioned import write_captioned, write_recipe
from tests.e2e.conftest import run
from tests.e2e.test_gpus import assert_same


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    from medpeft_cli import compat  # noqa: F401  must come before timm

    # isort: split
    import timm
    from safetensors.torch import save_file

    folder = write_captioned(tmp_path_factory.mktemp("captioned"))
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "encoder.safetensors")
    return folder


def encoder_of(captioned):
    return [f"evaluate.encoder_weights={captioned}/encoder.safetensors", "evaluate.encoder=timm:test_resnet"]


@pytest.fixture(scope="module")
def finetune(captioned):
    """Return a function that runs a recipe in this process and returns its run directory."""
    from medpeft_cli.engine.text_to_image import run_text_to_image

    def finetuned(stem, *overrides, method="bias", pipeline="sd1", results="results", evaluate=False):
        loaded = load_recipe(write_recipe(captioned, stem, method, pipeline), [*encoder_of(captioned), *overrides])
        return run_text_to_image(loaded, captioned / results, "medpeft finetune …", evaluate=evaluate)

    return finetuned


@pytest.fixture(scope="module")
def finished(finetune, one_thread):
    return finetune("whole", "train.checkpoint_seconds=0", "train.micro_batch_size=2", evaluate=True)


def record_of(run_dir):
    return json.loads((run_dir / "record.json").read_text())


def contents(folder):
    """Every file of a folder of pictures, but the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_the_record_says_all(finished):
    record = record_of(finished)
    assert record["status"] == "finished" and record["family"] == "unet"
    assert record["parameters"]["head"] == 0 < record["parameters"]["method"]
    assert record["data"]["train_images"] == 27 and record["input"]["size"] == 16
    assert record["selection"] == {"metric": "last", "epoch": 1, "step": 6, "value": record["selection"]["value"]}
    assert record["metrics"]["val"]["overall"]["loss"]["value"] == pytest.approx(record["selection"]["value"])
    test = record["metrics"]["test"]
    assert test["n"] == 12 and test["protocol"]["images"] == {"real": 6, "generated": 12, "train": 27}
    assert {"fid", "kid", "nearest_train", "ms_ssim"} <= test["overall"].keys()
    assert test["generation"]["adapter_sha256"] == record["delta"]["sha256"]
    assert (finished / "samples" / "step-000006.png").is_file() and not (finished / "checkpoint").exists()
    history = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [3, 6]


def test_two_processes_give_the_run_of_one_and_share_its_pictures(finished, captioned):
    together = start_run(
        load_recipe(captioned / "whole.yaml", [*encoder_of(captioned), "train.micro_batch_size=2"]),
        captioned / "together",
        "medpeft finetune …",
        processes=2,
    )
    assert_same(together, finished)
    assert contents(together / "images").keys() == contents(finished / "images").keys()
    assert record_of(together)["metrics"]["test"]["n"] == 12


def test_evaluate_again_gives_the_same_numbers_from_the_same_pictures(finished):
    from medpeft_cli.engine.tasks import evaluate_run

    before, files = record_of(finished)["metrics"]["test"], contents(finished / "images")
    assert evaluate_run(finished).data["metrics"]["test"] == before
    assert contents(finished / "images") == files
    other = evaluate_run(finished, bootstrap=0, nearest=False).data["metrics"]["test"]
    assert other["overall"]["fid"] == {"value": before["overall"]["fid"]["value"], "low": None, "high": None}
    assert "nearest_train" not in other["overall"]


def test_a_finished_run_whose_sample_fields_change_is_generated_and_scored_again(finetune, captioned):
    from medpeft_cli.engine.generate import generate
    from medpeft_cli.runs.skip import finished_run

    def loaded(*overrides):
        return load_recipe(
            captioned / "again.yaml", [f"evaluate.encoder_weights={captioned}/encoder.safetensors", *overrides]
        )

    options = ("train.steps=2", "evaluate.encoder=timm:test_resnet")
    before = finetune("again", *options, evaluate=True)
    first, scores = contents(before / "images"), record_of(before)["metrics"]["test"]
    assert finished_run(loaded(*options, "sample.batch_size=3"), captioned / "results", evaluate=True) == before
    changed = (*options, "sample.guidance=7", "sample.count=1")
    assert finished_run(loaded(*changed), captioned / "results", evaluate=True) is None
    assert finetune("again", *changed, evaluate=True) == before
    test = record_of(before)["metrics"]["test"]
    assert (test["n"], test["generation"]["guidance"]) == (6, 7.0)
    assert finished_run(loaded(*changed), captioned / "results", evaluate=True) == before
    folder = before / test["folder"]
    assert folder == generate(before) != before / "images"
    assert contents(before / "images") == first and len(contents(folder)) == 9
    finetune("again", *options, evaluate=True)
    assert record_of(before)["metrics"]["test"] == scores
    assert generate(before) == before / "images"


def test_it_is_listed_by_report_and_evaluate(finished, captioned):
    done = run("report", captioned / "results", "--csv", cwd=captioned)
    assert done.returncode == 0, done.stderr
    value = record_of(finished)["metrics"]["test"]["overall"]["fid"]["value"]
    assert f"{value:.2f}" in done.stdout


def start_and_kill(command, cwd, ready):
    """Start a command and kill -9 it once `ready()`; True if it was still alive."""
    process = subprocess.Popen(
        [sys.executable, "-m", "medpeft_cli", *map(str, command)], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    while process.poll() is None and not ready():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_training_that_is_killed_goes_on_to_the_same_adapter(finetune, captioned):
    options = ("train.checkpoint_seconds=0", "train.steps=24", "train.validate_steps=12", "train.ema_decay=0.9")
    whole = finetune("resumed", *options, results="never-killed")
    command = ["finetune", captioned / "resumed.yaml", "--results", "killed", "--no-evaluate"]
    for option in options:
        command += ["--set", option]
    checkpoints = f"killed/resumed/{whole.name}/checkpoint/last.pt"
    assert start_and_kill(command, captioned, (captioned / checkpoints).is_file)
    state = (captioned / checkpoints).stat().st_size
    resumed = finetune("resumed", *options, results="killed")
    assert state and resumed.name == whole.name
    for name in ("history.jsonl", "adapter/adapter_model.safetensors", "samples/step-000024.png"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_generate_that_is_killed_and_shards_give_the_files_of_one_run(finished, captioned):
    from medpeft_cli.engine.generate import generate

    asked = {"count": 8, "steps": 6}
    whole = generate(finished, out=captioned / "whole", **asked)
    listing = captioned / "parts" / "images.jsonl"
    command = ["generate", finished, "--out", captioned / "parts", "--count", 8, "--steps", 6]
    assert start_and_kill(command, captioned, lambda: listing.is_file() and listing.read_text().count("\n") >= 2)
    with listing.open("ab") as file:
        file.write(b'{"file": "0000')  # killed within a line
    first, second = (captioned / "parts" / json.loads(line)["file"] for line in listing.read_text().splitlines()[:2])
    first.write_bytes(first.read_bytes()[:-9])
    second.unlink()
    for part in (2, 1, 3):
        assert not (captioned / "parts" / "contact-sheet.png").exists()
        generate(finished, out=captioned / "parts", shard=(part, 3), batch_size=4, **asked)
    assert contents(captioned / "parts") == contents(whole)
    assert len(listing.read_text().splitlines()) == 48


def test_other_settings_prompts_and_the_untuned_pipeline_have_folders_of_their_own(finished):
    from medpeft_cli.engine.generate import PromptList, generate

    usual = generate(finished)
    assert usual == finished / "images"
    one = PromptList("--prompt", [(0, "a red square")])
    folders = [
        generate(finished, base=True),
        generate(finished, prompts=one),
        generate(finished, prompts=one, seed=9),
        generate(finished, prompts=one, scheduler="ddim"),
        generate(finished, prompts=one, size=24),
        generate(finished, guidance=7.0),
    ]
    assert len({usual, *folders}) == 7
    assert contents(folders[0]).keys() == contents(usual).keys()
    assert contents(folders[0])["images.jsonl"] != contents(usual)["images.jsonl"]
    with pytest.raises(DataError, match="holds pictures made with another steps"):
        generate(finished, out=usual, steps=5)


def test_other_pictures_are_scored_as_the_runs_own_and_its_record_stays(finished, captioned):
    from medpeft_cli.engine.generate import generate
    from medpeft_cli.engine.tasks import evaluate_folders, evaluate_run

    own = evaluate_run(finished).data["metrics"]["test"]  # as the recipe has it, whatever other tests asked for
    before = (finished / "record.json").read_bytes()
    again = evaluate_folders(finished, [finished / "images"])
    assert again == {name: own[name] for name in again} and "fid" in again["overall"]
    untuned = generate(finished, base=True)
    done = run("evaluate", finished, "--generated", untuned, "--json", cwd=captioned)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["protocol"]["sha256"]["real"] == own["protocol"]["sha256"]["real"]
    assert scores["overall"]["fid"]["value"] != own["overall"]["fid"]["value"]
    assert (finished / "record.json").read_bytes() == before


@pytest.mark.parametrize(
    ("pipeline", "method", "option"),
    [
        ("sd2", "lora", "train.gradient_checkpointing=true"),
        ("sdxl", "difffit", "train.precision=bfloat16"),
        ("sd1", "svdiff", "train.select=loss"),
        ("sd1", "full", "train.schedule=cosine"),
    ],
)
def test_every_kind_of_pipeline_and_method_trains_and_generates(finetune, pipeline, method, option):
    from medpeft_cli.engine.generate import PromptList, generate

    done = finetune(f"{pipeline}-{method}", option, "train.steps=2", method=method, pipeline=pipeline)
    assert record_of(done)["status"] == "trained"
    one = PromptList("--prompt", [(0, "a red square")])
    assert contents(generate(done, prompts=one)) != contents(generate(done, prompts=one, base=True))


def test_a_loss_that_is_not_finite_names_its_step(finetune):
    with pytest.raises(RunError, match=r"(loss became nan|no longer finite).* step \d") as caught:
        finetune("diverged", "train.lr=1e20", "train.steps=40", method="full")
    assert "train.lr" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", "id,caption\n1,a\n", "no column 'prompt', got 'id', 'caption'"),
        ("empty.txt", "\n\n", "no prompt in it"),
        ("empty.csv", "prompt,id\n,1\n", "no prompt in it"),
        ("latin.txt", None, "not UTF-8"),
        ("prompts.json", '["a red square"]', "wanted a .txt file or a table"),
    ],
)
def test_a_prompts_file_without_prompts_is_refused(tmp_path, name, content, said):
    from medpeft_cli.engine.generate import read_prompt_list

    file = tmp_path / name
    file.write_bytes(b"\xe9\n") if content is None else file.write_text(content)
    with pytest.raises(DataError, match=said):
        read_prompt_list(file)


def test_prompts_keep_their_place_in_the_file_and_empty_ones_are_told(tmp_path, capsys):
    from medpeft_cli.engine.generate import read_prompt_list

    (tmp_path / "p.txt").write_text("one\n\n  three \n")
    assert read_prompt_list(tmp_path / "p.txt").texts == [(0, "one"), (2, "three")]
    assert "1 of 3 prompts are empty and left out" in capsys.readouterr().err
    (tmp_path / "p.csv").write_text('id,text,prompt\n1,no,"yes, this"\n')
    assert read_prompt_list(tmp_path / "p.csv").texts == [(0, "yes, this")]


def test_prompts_over_the_limit_are_told_and_counted(finished, captioned, capsys):
    from medpeft_cli.engine.generate import generate, read_prompt_list

    (captioned / "long.txt").write_text("a red square\n" + "x" * 90 + "\n")
    folder = generate(finished, prompts=read_prompt_list(captioned / "long.txt"))
    assert "1 of 2 prompts are longer than the text encoder reads" in capsys.readouterr().err
    assert json.loads((folder / "generation.json").read_text())["prompts_truncated"] == 1


def test_what_would_fail_when_scoring_fails_before_search_and_training(finetune, captioned):
    from medpeft_cli.engine.tasks import dry_run

    unscorable = {
        "its weights come as a pickle": ("evaluate.encoder=xrv-densenet121", "evaluate.encoder_weights=null"),
        "unknown to open_clip": ("evaluate.clip=ViT-B-33",),
        "sample.prompts: 3 of the 9 test pictures": ("sample.prompts=3",),
    }
    search = "search={trials: 2, space: {train.lr: {log: [1e-5, 1e-1]}}}"
    for number, (said, overrides) in enumerate(unscorable.items()):
        with pytest.raises((DataError, RecipeError), match=said):
            finetune("early", f"seed={number}", *overrides, search, evaluate=True)
        recipe = load_recipe(captioned / "early.yaml", ["evaluate.encoder=demo", *overrides]).recipe
        with pytest.raises((DataError, RecipeError), match=said):
            dry_run(recipe)
        assert dry_run(recipe, evaluate=False)["family"] == "unet"
    assert not list((captioned / "results" / "early").glob("*/samples"))
    assert not list((captioned / "results" / "early").glob("*-search-*"))


def test_wrong_arguments_are_told(finished, captioned):
    for arguments, code, said in (
        (("--shard", "0/2"), 2, "wanted I/N"),
        (("--prompt", " "), 2, "--prompt is empty"),
        (("--prompt", "a", "--prompts", "b.txt"), 2, "not both"),
        (("--scheduler", "eulr"), 2, "did you mean 'euler'?"),
        (("--size", "20"), 2, "wanted a multiple of 8"),
        (("--prompts", "nowhere.txt"), 3, "no such file"),
    ):
        done = run("generate", finished, *arguments, cwd=captioned)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr


def test_pictures_that_are_not_ours_are_left_alone(finished, captioned):
    from medpeft_cli.engine.generate import generate

    folder = captioned / "holiday"
    shutil.copytree(captioned / "raw", folder)
    with pytest.raises(DataError, match="holds '00.png' and no generation.json"):
        generate(finished, out=folder)
    assert sorted(contents(folder)) == sorted(contents(captioned / "raw"))


def test_the_demo_runs_from_the_recipe_to_the_scores(captioned, root):
    """Few steps and pictures: that it learns is shown in docs/results.md."""
    few = ("train.steps=4", "train.validate_steps=4", "sample.prompts=8", "sample.steps=3", "evaluate.bootstrap=20")
    arguments = [
        "--results",
        captioned / "demo",
        "--set",
        f"data.root={captioned / 'twin'}",
        "--set",
        "data.fraction=0.05",
    ]
    for override in few:
        arguments += ["--set", override]
    done = run("finetune", "recipes/mimic_bias.yaml", "--demo", *arguments, "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    run_dir = captioned / "demo" / json.loads(done.stdout)["run"]
    record = record_of(run_dir)
    assert record["demo"] is True and record["status"] == "finished"
    assert record["parameters"]["method"] > 10_000
    assert {"fid", "kid", "clip_score", "nearest_train"} <= record["metrics"]["test"]["overall"].keys()
    assert len((run_dir / "images" / "images.jsonl").read_text().splitlines()) == 8


def test_a_field_of_the_other_task_is_refused(finished):
    from medpeft_cli.engine.tasks import evaluate_run

    with pytest.raises(RecipeError, match="evaluate: batch_size is not for runs of task generate"):
        evaluate_run(finished, batch_size=3)
