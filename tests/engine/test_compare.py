"""The whole comparison, as a library and from the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medpeft_cli import cli
from medpeft_cli.engine.compare import compare
from medpeft_cli.errors import DataError
from medpeft_cli.metrics.diversity import ms_ssim_pairs
from medpeft_cli.metrics.encoders import load_encoder
from medpeft_cli.metrics.names import GENERATION
from medpeft_cli.metrics.pictures import folder_pictures
from tests.metrics.pictures_on_disk import write_pictures
from tests.metrics.tiny_clip import write_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_pictures(folder / "real", 12, seed=1, size=(90, 64))
    write_pictures(folder / "train", 9, seed=2)
    paths = write_pictures(folder / "generated", 10, seed=3, prompts=["no finding", "a " * 40])
    paths[4].write_bytes((folder / "train" / "000003.png").read_bytes())  # a copy
    lines = (folder / "generated" / "images.jsonl").read_text().splitlines(keepends=True)
    for number in range(2):
        shard = folder / f"shard{number}"
        shard.mkdir()
        for path in paths[number::2]:
            (shard / path.name).write_bytes(path.read_bytes())
        (shard / "images.jsonl").write_text("".join(lines[number::2]))
    write_clip(folder / "clip")
    return folder


@pytest.fixture
def evaluate(folder, monkeypatch, capsys, tmp_path):
    """Return a function that runs `medpeft evaluate …` in the folder: exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["medpeft", "evaluate", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capsys.readouterr()

    yield run
    cli.console.json = False


GIVEN = ("--real", "real", "--encoder", "demo", "--bootstrap", "50", "--clip", "local-dir:clip")


def test_the_command_gives_every_metric_with_interval_and_protocol_and_shards_are_one_set(evaluate, folder, tmp_path):
    more = ("--train", "train", "--json")
    code, out, err = evaluate(*GIVEN, "--generated", "generated", *more)
    assert code == 0, err
    scores = json.loads(out)
    assert scores["overall"].keys() == GENERATION.keys()
    for name, estimate in scores["overall"].items():
        assert estimate["low"] <= estimate["value"] <= estimate["high"], name
    protocol = scores["protocol"]
    assert protocol["images"] == {"real": 12, "generated": 10, "train": 9}
    assert protocol["encoder"].keys() >= {"name", "sha256", "crop", "size_pixels", "filter", "antialias", "mean", "std"}
    assert protocol["sha256"]["real"] == folder_pictures([folder / "real"]).sha256
    assert protocol["clip"]["prompts_truncated"] == 5
    assert protocol["versions"]["torch"] == torch.__version__
    closest = scores["closest"][0]
    assert (closest["generated"], closest["train"]) == ("generated/000004.png", "train/000003.png")
    assert closest["distance"] == pytest.approx(0, abs=1e-5)
    assert len(list((tmp_path / "cache" / "medpeft" / "features").iterdir())) == 2  # real and train

    shards = json.loads(evaluate(*GIVEN, "--generated", "shard0", "--generated", "shard1", *more)[1])
    assert shards["overall"] == scores["overall"]
    assert shards["protocol"] == protocol


def test_the_table_shows_what_the_numbers_depend_on(evaluate):
    code, out, err = evaluate(*GIVEN, "--generated", "generated")
    assert code == 0, err
    for words in (
        "10 generated images, 12 real ones", "bootstrap over images, 50 resamples", "FID (lower is better)", "64 px, bicubic",
        "10 images for 416 features: FID is biased upwards", "5 prompts are longer than the 12 tokens", "CLIP score",
    ):  # fmt: skip
        assert words in out, out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--real", "real"), 2, "--generated is missing"),
        (("--generated", "generated", "--real", "real", "results/run"), 2, "do not go with --real"),
        ((), 2, "nothing to score"),
        (("--generated", "generated"), 2, "--real is missing"),
        (("results/run", "results/other", "--generated", "generated"), 2, "--generated goes with one RUN"),
        (("results/run", "--train", "real"), 2, "--train goes with --real"),
        (("--real", "real", "--generated", "nowhere", "--encoder", "demo"), 3, "nowhere: no such folder"),
        (("--real", "real", "--generated", "generated", "--encoder", "dmo"), 2, "did you mean 'demo'"),
        (("--real", "few", "--generated", "generated", "--encoder", "demo"), 3, "real pictures: 2, the metrics need 6"),
        (("--real", "real", "--generated", "broken", "--encoder", "demo"), 3, "000003.png: not a readable picture"),
        (("--real", "real", "--generated", "generated", "--encoder", "demo", "--confidence", "2"), 2, "--confidence"),
        (
            ("--real", "generated", "--generated", "real", "--encoder", "demo", "--clip", "local-dir:clip"),
            3,
            "the CLIP score needs the prompt of each",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(evaluate, folder, arguments, code, said):
    write_pictures(folder / "few", 2)
    write_pictures(folder / "broken", 7)
    (folder / "broken" / "000003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ended, out, err = evaluate(*arguments)
    assert ended == code, err
    assert said in err
    assert (out, "Traceback" in err) == ("", False)


def test_generated_pictures_like_the_real_ones_score_better(folder, tmp_path):
    write_pictures(tmp_path / "like", 12, seed=5, size=(64, 64))
    for number in range(12):
        Image.fromarray(np.full((64, 64), 10 * number, np.uint8)).save(tmp_path / f"flat{number}.png")
    real, encoder = folder_pictures([folder / "real"]), load_encoder("demo", CPU)
    like, flat = (
        compare(real, folder_pictures([each]), encoder=encoder, bootstrap=0)["overall"]
        for each in (tmp_path / "like", tmp_path)
    )
    for name in ("fid", "kid"):
        assert like[name]["value"] < flat[name]["value"]
        assert like[name]["low"] is None


def test_real_pictures_that_are_training_pictures_leave_the_distance_undefined(folder):
    real = folder_pictures([folder / "real"])
    scores = compare(
        real, folder_pictures([folder / "generated"]), encoder=load_encoder("demo", CPU), train=real, bootstrap=5
    )
    assert "nearest_train" not in scores["overall"]
    assert "also a training picture" in scores["protocol"]["undefined"]["nearest_train"]


def test_ms_ssim_is_torchmetrics_on_pairs_of_grey_squares(tmp_path):
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    for number in range(2):
        coarse = np.random.default_rng(number).integers(0, 256, (11, 11), dtype=np.uint8)
        Image.fromarray(coarse).resize((176, 176)).save(tmp_path / f"{number}.png")
    a, b = (torch.from_numpy(np.asarray(Image.open(path), np.float32))[None, None] for path in tmp_path.iterdir())
    expected = float(multiscale_structural_similarity_index_measure(a, b, data_range=255.0))
    assert ms_ssim_pairs(folder_pictures([tmp_path]), 0, CPU).tolist() == pytest.approx([expected], rel=1e-5)
    for path in list(tmp_path.iterdir()):
        Image.open(path).save(path.with_name(f"copy-{path.name}"))
    pairs = ms_ssim_pairs(folder_pictures([tmp_path]), 0, CPU)
    assert len(pairs) == 2
    assert np.isfinite(pairs).all()


def test_too_few_pictures_are_refused_before_they_are_encoded(tmp_path):
    write_pictures(tmp_path, 5)
    with pytest.raises(DataError, match="5, the metrics need 6 at least"):
        compare(folder_pictures([tmp_path]), folder_pictures([tmp_path]), encoder=load_encoder("demo", CPU))
