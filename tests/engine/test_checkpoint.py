import pytest
import torch

from medpeft_cli.engine.checkpoint import Checkpoint, State
from medpeft_cli.errors import DataError


def test_state_and_tensors_come_back_as_they_were(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    state = State(epoch=2, step=3, losses=[0.1 + 0.2], history=[{"epoch": 0}], best_epoch=1, best_value=0.5)
    tensors = {"a": torch.randn(3)}
    checkpoint.save_best(1, tensors)
    checkpoint.save(state, tensors=tensors, optimiser={"state": {}})
    read, content = checkpoint.load()
    assert read == state
    assert torch.equal(content["tensors"]["a"], tensors["a"])
    assert torch.equal(checkpoint.load_best(read)["a"], tensors["a"])


def test_nothing_saved_is_none(tmp_path):
    assert Checkpoint(tmp_path).load() is None


def test_a_crash_between_best_and_last_keeps_the_pair_that_belongs_together(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save_best(1, {"a": torch.tensor([1.0])})
    checkpoint.save(State(best_epoch=1), tensors={})
    checkpoint.save_best(2, {"a": torch.tensor([2.0])})  # and then the process dies
    state, _ = checkpoint.load()
    assert checkpoint.load_best(state)["a"].item() == 1.0


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"PK half a file")
    with pytest.raises(DataError, match="damaged checkpoint") as caught:
        Checkpoint(tmp_path).load()
    assert "to start this run again" in caught.value.hint


def test_a_pickle_in_place_of_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state": Trap()}, tmp_path / "last.pt")
    with pytest.raises(DataError):
        Checkpoint(tmp_path).load()
    assert not (tmp_path / "ran").exists()
