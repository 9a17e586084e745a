import multiprocessing
import os
import resource
import signal

import numpy as np
import pytest

from medpeft_cli.engine import rows
from medpeft_cli.engine.rows import KEY, RowStore
from medpeft_cli.errors import RunError
from medpeft_cli.runs import lock
from medpeft_cli.runs.lock import run_lock
from medpeft_cli.runs.stop import Stopped, stoppable


def key(number):
    return f"{number:0{KEY}x}"


def filled(folder, numbers):
    store = RowStore(folder, (2, 3))
    with store.writing():
        wanted = store.missing([key(number) for number in numbers])
        for each in wanted:
            store.add([each], np.full((1, 2, 3), int(each, 16)))
    return len(wanted)


def test_rows_are_found_by_key_in_any_order_and_by_another_process_too(tmp_path):
    assert filled(tmp_path, [1, 2, 3]) == 3
    assert filled(tmp_path, [3, 4]) == 1
    store = RowStore(tmp_path, (2, 3))
    assert store.missing([key(4), key(9), key(9), key(1)]) == [key(9)]
    assert store.rows([key(4), key(1), key(4)])[:, 0, 0].tolist() == [4, 1, 4]
    assert store.rows([key(1)]).dtype == np.float16


@pytest.mark.parametrize(("rows", "keys"), [(5, 0), (12 * 1, 0), (0, 7), (0, KEY + 1), (12, KEY)])
def test_what_a_killed_process_leaves_behind_is_cut_off(tmp_path, rows, keys):
    filled(tmp_path, [1, 2])
    for name, size in (("rows.bin", rows), ("keys.txt", keys)):
        with (tmp_path / name).open("ab") as file:
            file.write(b"7" * size)
    assert filled(tmp_path, [1, 2, 3]) == 1
    store = RowStore(tmp_path, (2, 3))
    assert store.rows([key(1), key(2), key(3)])[:, 1, 2].tolist() == [1, 2, 3]
    assert (tmp_path / "rows.bin").stat().st_size == 3 * 12


def test_rows_that_were_lost_behind_their_keys_are_made_again(tmp_path):
    filled(tmp_path, [1, 2])
    (tmp_path / "rows.bin").write_bytes((tmp_path / "rows.bin").read_bytes()[:-1])
    assert RowStore(tmp_path, (2, 3)).missing([key(1), key(2)]) == [key(2)]


def test_a_signal_ends_the_wait_for_another_that_writes(tmp_path):
    with run_lock(tmp_path), pytest.raises(Stopped), stoppable():
        os.kill(os.getpid(), signal.SIGUSR2)
        filled(tmp_path, [1])


def test_several_processes_make_each_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOOK_SECONDS", 0.01)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        made = pool.starmap(filled, [(tmp_path, range(40))] * 6)
    assert sum(made) == 40
    store = RowStore(tmp_path, (2, 3))
    assert store.rows([key(n) for n in range(40)])[:, 0, 0].tolist() == list(range(40))


def test_a_write_that_fails_half_way_is_not_tried_again_behind_its_half(tmp_path):
    filled(tmp_path, [1, 2])
    store, limits = RowStore(tmp_path, (2, 3)), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with pytest.raises(RunError, match="cannot be written"), store.writing():
        store._kept_at = -1e9  # so that rows are kept at once
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * (KEY + 1) + 40, limits[1]))
        try:
            store.add([key(n) for n in range(3, 9)], np.arange(3, 9)[:, None, None] * np.ones((1, 2, 3)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    filled(tmp_path, range(1, 12))
    again = RowStore(tmp_path, (2, 3))
    assert again.rows([key(n) for n in range(1, 12)])[:, 0, 0].tolist() == list(range(1, 12))


@pytest.mark.parametrize(("seconds", "before"), [(0.0, [1, 2]), (1e9, [])])
def test_rows_are_kept_every_few_seconds_and_when_the_work_breaks_off(tmp_path, monkeypatch, seconds, before):
    monkeypatch.setattr(rows, "KEEP_SECONDS", seconds)
    store = RowStore(tmp_path, (2, 3))
    with pytest.raises(ValueError, match="broke off"), store.writing():
        for number in (1, 2):
            store.add([key(number)], np.full((1, 2, 3), number))
        assert RowStore(tmp_path, (2, 3)).missing([key(1), key(2)]) == [key(n) for n in (1, 2) if n not in before]
        raise ValueError("broke off")
    assert RowStore(tmp_path, (2, 3)).rows([key(1), key(2)])[:, 0, 0].tolist() == [1, 2]
