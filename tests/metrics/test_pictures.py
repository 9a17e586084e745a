"""Sets of pictures: order, hashes, prompts, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medpeft_cli.data.threads import ahead
from medpeft_cli.errors import DataError
from medpeft_cli.metrics.pictures import folder_pictures, read_prompts
from tests.metrics.pictures_on_disk import write_pictures


def test_names_and_shards_change_nothing(tmp_path):
    paths = write_pictures(tmp_path / "all", 8)
    for number, path in enumerate(paths):
        shard = tmp_path / f"shard{number % 2}"
        shard.mkdir(exist_ok=True)
        (shard / f"other{7 - number}.png").write_bytes(path.read_bytes())
    whole = folder_pictures([tmp_path / "all"])
    shards = folder_pictures([tmp_path / "shard0", tmp_path / "shard1"])
    assert (len(whole), whole.hashes, whole.sha256) == (8, shards.hashes, shards.sha256)
    assert all(np.array_equal(whole.read(i), shards.read(i)) for i in range(8))
    assert whole.sha256 != folder_pictures([tmp_path / "shard0"]).sha256


def test_subfolders_count_and_hidden_and_other_files_do_not(tmp_path):
    write_pictures(tmp_path / "in" / "deep", 2)
    write_pictures(tmp_path / "in" / ".hidden", 2)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    assert len(folder_pictures([tmp_path / "in"])) == 2


def test_images_jsonl_says_which_pictures_count_and_their_prompts(tmp_path):
    paths = write_pictures(tmp_path, 4, prompts=["no finding", "effusion"])
    write_pictures(tmp_path / "sheet", 1, seed=9)  # not listed: a contact sheet
    pictures = folder_pictures([tmp_path])
    said = dict(zip(pictures.names, pictures.prompts, strict=True))
    assert said == {str(path): ["no finding", "effusion"][i % 2] for i, path in enumerate(paths)}
    paths[2].unlink()
    with pytest.raises(DataError, match=r"images\.jsonl:3: '000002\.png' is not there"):
        folder_pictures([tmp_path])


def test_an_undecodable_picture_is_named(tmp_path):
    write_pictures(tmp_path, 3)
    (tmp_path / "000001.png").write_bytes((tmp_path / "000001.png").read_bytes()[:200])
    pictures = folder_pictures([tmp_path])
    with pytest.raises(DataError, match=r"000001\.png: not a readable picture"):
        list(ahead(pictures.read, 3, 2))


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no such folder"), ("empty", "holds no picture")])
def test_missing_and_empty_folders(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=said):
        folder_pictures([tmp_path / name])


def test_prompts_by_file_name_by_path_and_by_line(tmp_path):
    paths = [tmp_path / "a" / "0.png", tmp_path / "b" / "0.png", tmp_path / "b" / "1.png"]
    (tmp_path / "by_path.csv").write_text('prompt,file\n"one, two",a/0.png\nthree,b/0.png\nfour,1.png\n')
    assert read_prompts(tmp_path / "by_path.csv", paths) == ["one, two", "three", "four"]
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    assert read_prompts(tmp_path / "lines.txt", paths[::-1]) == ["three", "two", "one"]
    rows = [{"file": "0.png", "prompt": "x"}, {"file": "1.png", "prompt": "y"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_prompts(tmp_path / "rows.jsonl", paths) == ["x", "x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", "file,text\n0.png,a\n", "p.csv:1: no column 'prompt'"),
        ("p.csv", "file,prompt\n9.png,a\n", "no prompt for '0.png'"),
        ("p.txt", "a\nb\n", "2 prompts for 1 pictures"),
        ("p.jsonl", '{"file": "0.png", "prompt": 3}', "p.jsonl:1: no text 'prompt'"),
        ("p.jsonl", '{"file"', "p.jsonl:1: not JSON"),
    ],
)
def test_bad_prompt_files(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read_prompts(tmp_path / name, [tmp_path / "0.png"])


def test_work_ahead_keeps_the_order_and_passes_errors_on():
    assert list(ahead(lambda i: i * i, 11, 4)) == [i * i for i in range(11)]
    assert list(ahead(lambda i: i, 0, 4)) == []
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda i: 1 // (3 - i), 9, 4))


def test_work_ahead_leaves_the_cores_to_its_consumer():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(ahead(lambda i: torch.get_num_threads(), 8, 4)) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_stored_pictures_are_those_of_the_prepared_dataset(tmp_path):
    from medpeft_cli.data.card import Card
    from medpeft_cli.data.prepare import prepare
    from medpeft_cli.metrics.pictures import stored_pictures

    for name in "ab":
        write_pictures(tmp_path / "raw" / name, 10, seed=ord(name), size=(40, 40))
    card = Card(name="two", title="Two", modality="test", classes=("a", "b"), layout={"kind": "class_folders"})
    manifest = prepare(card, tmp_path / "raw", tmp_path / "data", workers=1)
    indices = manifest.indices("train")
    pictures = stored_pictures(manifest, indices)
    assert sorted(pictures.names) == sorted(manifest.ids[index] for index in indices)
    for number, name in enumerate(pictures.names):
        assert np.array_equal(pictures.read(number), np.asarray(Image.open(tmp_path / "raw" / name)))
    assert pictures.sha256 == stored_pictures(manifest, indices[::-1].copy()).sha256
