"""Packing: resumed after any end, shared by processes, always the same bytes."""

import multiprocessing as mp
import os
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from medpeft_cli.data import pack as packing
from medpeft_cli.data.layouts import Sample
from medpeft_cli.data.manifest import read_manifest
from medpeft_cli.data.pack import Claims
from medpeft_cli.data.prepare import write_dataset
from medpeft_cli.errors import DataError, RunError

SAMPLES = [Sample(f"{n:03}", f"{n:03}", "ab"[n % 2], f"g{n // 2}") for n in range(60)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(packing, "PIECE", 8)
    monkeypatch.setattr("medpeft_cli.data.build.PIECE", 8)


@pytest.fixture
def card(make_card):
    return make_card({"kind": "class_folders"})


def draw(sample):
    number = int(sample.id)
    return np.random.default_rng(number).integers(0, 256, (16 + number % 5, 20, 3), dtype=np.uint8)


class Counted:
    """Draws, and knows which samples were asked for."""

    def __init__(self, act=lambda number: None):
        self.asked, self.act = [], act

    def __call__(self, sample):
        self.act(len(self.asked))
        self.asked.append(sample.id)
        return draw(sample)


def write(root, card, read=draw, samples=SAMPLES, **options):
    return write_dataset(root, card, samples, read, stamp=lambda sample: "one", **options)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def without_claims(found):
    return {path: data for path, data in found.items() if path.name not in (".claims", ".lock")}


def test_any_number_of_processes_writes_the_same_bytes(tmp_path, card):
    one, three = write(tmp_path / "one", card), write(tmp_path / "three", card, workers=3)
    assert without_claims(files(tmp_path / "one")) == without_claims(files(tmp_path / "three"))
    assert one.sha256 == three.sha256
    assert len(one.info["pieces"]) == 8


def in_child(work):
    """Run `work` in a forked process; return its exit code."""
    process = mp.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


def kill_at(number):
    return Counted(lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == number else None)


def test_after_kill_9_finished_pieces_are_kept(tmp_path, card):
    assert in_child(lambda: write(tmp_path / "root", card, kill_at(37))) == -signal.SIGKILL
    assert not (tmp_path / "root/dataset.json").exists()
    rest = Counted()
    resumed = write(tmp_path / "root", card, rest)
    assert rest.asked == [sample.id for sample in SAMPLES[32:]]
    assert resumed.sha256 == write(tmp_path / "other", card).sha256
    assert without_claims(files(tmp_path / "root")) == without_claims(files(tmp_path / "other"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.with_suffix(".bin").write_bytes(path.with_suffix(".bin").read_bytes()[:-1]),
        lambda path: path.with_suffix(".bin").write_bytes(b"\0" * path.with_suffix(".bin").stat().st_size),
        lambda path: path.with_suffix(".bin").unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
    ],
)
def test_a_kept_piece_is_checked_and_a_damaged_one_made_again(tmp_path, card, damage):
    assert in_child(lambda: write(tmp_path / "root", card, kill_at(37))) == -signal.SIGKILL
    damage(next((tmp_path / "root/images").glob("*.npy")))
    again = Counted()
    resumed = write(tmp_path / "root", card, again)
    assert len(again.asked) == 28 + 8
    assert resumed.sha256 == write(tmp_path / "other", card).sha256


def test_another_split_packs_nothing_again(tmp_path, card):
    first = write(tmp_path / "root", card)
    again = Counted()
    assert write(tmp_path / "root", card, again, seed=5).sha256 != first.sha256
    assert again.asked == []


def test_a_changed_picture_packs_its_piece_alone(tmp_path, card):
    write(tmp_path / "root", card)
    again = Counted()
    stamps = {"020": "two"}
    write_dataset(tmp_path / "root", card, SAMPLES, again, stamp=lambda sample: stamps.get(sample.id, "one"))
    assert again.asked == [sample.id for sample in SAMPLES[16:24]]
    assert len(list((tmp_path / "root/images").glob("*.bin"))) == 8  # that of the old picture is gone


def test_a_killed_worker_is_named_and_the_rest_is_kept(tmp_path, card):
    with pytest.raises(RunError, match="a packing process ended with exit code -9") as caught:
        write(tmp_path / "root", card, kill_at(12), workers=2)
    assert "--workers" in caught.value.hint
    kept = len(list((tmp_path / "root/images").glob("*.npy")))
    assert kept >= 1
    rest = Counted()
    write(tmp_path / "root", card, rest)
    assert len(rest.asked) <= 60 - 8 * kept


def test_what_killed_workers_had_begun_is_removed(tmp_path, card):
    with pytest.raises(RunError):
        write(tmp_path / "root", card, kill_at(12), workers=3)
    assert not list((tmp_path / "root").glob("**/*.partial"))


def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path, card, capsys):
    def interrupt(number):
        if number == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "root", card, Counted(interrupt))
    assert capsys.readouterr().err.endswith(
        f"{tmp_path / 'root'}: stopped; what is packed is kept, the same command goes on\n"
    )


def test_progress_ends_at_the_number_of_pictures(tmp_path, card, monkeypatch):
    told = []

    @contextmanager
    def late(total, label, unit):  # the workers are ahead of the bar
        time.sleep(0.3)
        yield lambda count=1, note=None, resumed=False: told.append(count)

    monkeypatch.setattr("medpeft_cli.data.workers.console.progress", late)
    write(tmp_path / "root", card, workers=2)
    assert sum(told) == len(SAMPLES)


def test_an_error_in_a_worker_arrives_with_its_traceback(tmp_path, card):
    def fail(count):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        write(tmp_path / "root", card, Counted(fail), workers=2)
    assert "in fail" in caught.value.__notes__[0]


def test_unreadable_pictures_are_the_same_for_any_number_of_processes(tmp_path, card):
    def read(sample):
        if int(sample.id) % 7 == 3:
            raise DataError(f"bad {sample.id}")
        return draw(sample)

    messages = []
    for workers in (1, 3):
        with pytest.raises(DataError) as caught:
            write(tmp_path / f"{workers}", card, read, workers=workers)
        messages.append(caught.value.message.replace(str(tmp_path / str(workers)), ""))
    assert messages[0] == messages[1] and "9 of 60 pictures cannot be read" in messages[0]
    assert messages[0].endswith("\n  024: bad 024\n  031: bad 031\n  …")
    assert (
        write(tmp_path / "3", card, read, allow_bad=9).sha256 == write(tmp_path / "1", card, read, allow_bad=9).sha256
    )


def test_two_commands_share_the_work_and_both_return_the_dataset(tmp_path, card):
    asked = mp.get_context("fork").Queue()

    def slow(sample):
        asked.put(sample.id)
        time.sleep(0.004)
        return draw(sample)

    def command():
        assert write(tmp_path / "root", card, slow).ids == [sample.id for sample in SAMPLES]

    processes = [mp.get_context("fork").Process(target=command) for _ in range(2)]
    for process in processes:
        process.start()
    found = [asked.get(timeout=30) for _ in SAMPLES]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(found) == [sample.id for sample in SAMPLES] and asked.empty()
    assert read_manifest(tmp_path / "root", card).sha256 == write(tmp_path / "other", card).sha256


def test_a_store_that_is_in_use_is_not_cleared(tmp_path, card):
    """A command with other pictures is at work in the same folder."""
    write(tmp_path / "root", card)
    piece = next((tmp_path / "root/images").glob("*.bin"))
    ready, done = mp.get_context("fork").Event(), mp.get_context("fork").Event()

    def other():
        def wait(count):
            ready.set()
            done.wait(30)

        write_dataset(tmp_path / "root", card, SAMPLES[:30], Counted(wait), stamp=lambda sample: "other")

    process = mp.get_context("fork").Process(target=other)
    process.start()
    ready.wait(30)
    write_dataset(tmp_path / "root", card, SAMPLES, draw, stamp=lambda sample: "three")
    assert piece.exists()
    done.set()
    process.join(60)
    assert process.exitcode == 0
    assert len(read_manifest(tmp_path / "root", card).ids) == 30 and not piece.exists()


def test_claims_end_with_their_process(tmp_path):
    mine = Claims(tmp_path / "claims")

    def other():
        theirs = Claims(tmp_path / "claims")
        assert theirs.take(1) and theirs.take(3)
        os.kill(os.getpid(), signal.SIGKILL)

    assert mine.take(2)
    assert in_child(other) == -signal.SIGKILL
    assert mine.take(1) and mine.take(3)

    def refused():
        theirs = Claims(tmp_path / "claims")
        assert not theirs.take(2) and theirs.take(4)

    assert in_child(refused) == 0
    mine.close()


def test_threads_of_the_caller_do_not_hinder(tmp_path, card):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert write(tmp_path / "root", card, workers=2).ids
    finally:
        stop.set()
        thread.join()
