"""Two processes take the steps of one: on toys, where what each of them does can be seen."""

import signal
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional

from medpeft_cli.engine.checkpoint import Checkpoint
from medpeft_cli.engine.join import joined
from medpeft_cli.engine.loop import Micro, Plan, fit
from medpeft_cli.engine.together import block, dealt, gathered, mine, share_count, told
from medpeft_cli.errors import DataError, RunError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.methods.inject import Injected
from medpeft_cli.methods.schedule import Schedule
from medpeft_cli.recipe.schema import Train
from medpeft_cli.runs import ranks, stop
from medpeft_cli.runs.ranks import Place

ON_CPU = SimpleNamespace(device="cpu")
SIZES = (6, 6, 5, 1)  # examples of each step: uneven shares, and in the last step one for two processes


class Toy(nn.Module):
    """Two layers with dropout, a norm between them whose statistics move, and a layer that is never used."""

    def __init__(self, normed):
        super().__init__()
        torch.manual_seed(ranks.here.rank)  # they start apart
        self.body, self.fc, self.extra = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(8) if normed else nn.Identity()
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.fc(self.drop(self.norm(self.body(x))))


class Penalty(Schedule):
    """What AdaLoRA has: an addition to the loss once a step."""

    def __init__(self, weight):
        self.weight = weight

    def penalty(self):
        return self.weight.square().sum() * 0.1


class ToyTask:
    """Eighteen examples in four steps; shares of three at most."""

    def __init__(self, sizes):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(18, 4, generator=generator)
        self.y = torch.randint(0, 3, (18,), generator=generator)
        self.rows = torch.arange(sum(sizes)).split(sizes)
        self.plan = Plan(2 * len(sizes), len(sizes))
        self.worked = 0

    def micro_batches(self, epoch, first_step):
        shares = [
            (step, part, rows, parts)
            for step, of_step in enumerate(self.rows)
            for parts in [share_count(len(of_step), 3)]
            for part, rows in enumerate(of_step.tensor_split(parts))
        ]
        for (step, part, rows, parts), work in dealt(shares, [share[2] for share in mine(shares)]):
            self.worked += work is not None
            yield Micro(step, part, part == parts - 1, len(rows), work)

    def loss(self, model, micro):
        loss = functional.cross_entropy(model(self.x[micro.batch]), self.y[micro.batch], reduction="sum")
        return loss / len(self.rows[micro.step])

    def validate(self, model, step):
        rows = block(torch.arange(18).split(5))
        logits = gathered(torch.cat([model(self.x[own]).detach() for own in rows]))
        return {"f1_macro": float(logits.logsumexp(1).sum()), "loss": 0.0}


def trained(folder, normed):
    """Train a toy; return its final tensors, the history and how many shares were this process's."""
    model = Toy(normed)
    names = [name for name, _ in model.named_parameters()]
    moving = [name for name, _ in model.named_buffers()]
    method = METHODS["full"]
    injected = Injected(names=names, matched=[], schedule=Penalty(model.body.weight))
    adapted = Adapted(model, "vit", method, method.config(), names, [], moving, [], [], [], injected)
    task = ToyTask(SIZES[:3] if normed else SIZES)
    spec = Train(epochs=2, lr=0.05, weight_decay=0.1, clip_norm=0.5, checkpoint_seconds=1e9)
    state, _, _ = fit(adapted, task, spec, 0, torch.device("cpu"), Checkpoint(folder), lambda *a, **k: None)
    return model.state_dict(), state.history, state.images, task.worked


def everything(folder):
    """What a process does with the others: both toys, and what is asked of the group."""
    results = {normed: trained(folder / f"{normed}", normed) for normed in (True, False)}
    size = distributed.get_world_size()
    came = gathered(torch.tensor([[ranks.here.rank, size]])).tolist()
    shared = told(f"of {ranks.here.rank}")
    if ranks.follows():
        stop.receive(signal.SIGUSR2)  # it alone; process 0 then leaves, and it with it
        trained(folder / "stopped", False)
    with pytest.raises(stop.Stopped) as stopped, stop.stoppable():
        trained(folder / "stopped", False)
    state, _ = Checkpoint(folder / "stopped").load()
    return results, came, shared, (stopped.value.code, state.epoch, state.step)


def other(port, folder):
    with joined(Place(1, 2, 1, 2, port=port), ON_CPU, "toys"):
        everything(folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What process 0 of two has in the end, and the exit code of the other."""
    folder = tmp_path_factory.mktemp("two")
    started = []

    def start(port):
        started.append(get_context("spawn").Process(target=other, args=(port, folder), daemon=True))
        started[0].start()
        return started

    with joined(Place(0, 2, 0, 2), ON_CPU, "toys", start):
        found = everything(folder)
    return *found, started[0].exitcode


def test_two_processes_really_joined_and_leave_together(two):
    _, came, shared, _, exit_code = two
    assert came == [[0, 2], [1, 2]]
    assert shared == "of 0"
    assert exit_code == 0
    assert ranks.here == Place()


@pytest.mark.parametrize("normed", [True, False])
def test_their_steps_are_those_of_one_process(two, tmp_path, normed):
    tensors, history, images, worked = two[0][normed]
    expected, expected_history, expected_images, all_shares = trained(tmp_path, normed)
    assert 0 < worked < all_shares and images == expected_images
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, atol=1e-6, rtol=0, msg=name)
    for entry, other_entry in zip(history, expected_history, strict=True):
        assert entry["train_loss"] == pytest.approx(other_entry["train_loss"], abs=1e-6)
        assert entry["val"]["f1_macro"] == pytest.approx(other_entry["val"]["f1_macro"], abs=1e-4)


def test_a_signal_that_the_other_gets_stops_both_after_the_step(two):
    assert two[3] == (128 + signal.SIGUSR2, 0, 1)


def another(port):
    with joined(Place(1, 2, 1, 2, port=port), ON_CPU, "seed 1"):
        pass


def test_processes_with_different_runs_are_refused():
    started = []

    def start(port):
        started.append(get_context("spawn").Process(target=another, args=(port,), daemon=True))
        started[0].start()
        return started

    with pytest.raises(RunError, match="2 processes that were started together were given different runs"):  # noqa: SIM117
        with joined(Place(0, 2, 0, 2), ON_CPU, "seed 0", start):
            pass
    assert started[0].exitcode == 0  # srun would kill process 0 for anything else, before it has spoken


def fails(rank, port):
    def start(port):
        others = [get_context("spawn").Process(target=fails, args=(1, port))]
        others[0].start()
        return others

    with joined(Place(rank, 2, rank, 2, port=port), ON_CPU, "fails", None if rank else start):
        if rank:
            raise DataError("part 7: damaged", "look at it")
        told("and waits for ever")


def test_the_failure_of_one_ends_the_other_with_its_words_and_code(capfd):
    first = get_context("spawn").Process(target=fails, args=(0, 0))
    first.start()
    first.join(60)
    assert first.exitcode == DataError.exit_code
    assert capfd.readouterr().err == "error: process 1: part 7: damaged\n  hint: look at it\n"
