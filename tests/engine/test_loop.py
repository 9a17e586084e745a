"""The loop on a toy task, where every step can be written out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from medpeft_cli.engine.checkpoint import Checkpoint
from medpeft_cli.engine.loop import Micro, Plan, fit
from medpeft_cli.engine.optim import learning_rate
from medpeft_cli.errors import RecipeError, RunError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import Adapted
from medpeft_cli.methods.inject import Injected
from medpeft_cli.recipe.schema import Train
from tests.operations import Operations


class Toy(nn.Module):
    """Two layers, dropout between them, and one that is never used."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 8)
        self.drop = nn.Dropout(0.0)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.drop(self.body(x)))


class Unused(Toy):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(2, 2)


def adapted(model):
    names = [name for name, _ in model.named_parameters()]
    injected = Injected(names=names, matched=[])
    method = METHODS["bias"]
    return Adapted(model, "vit", method, method.config(), names, [], [], [], [], list(model.state_dict()), injected)


class ToyTask:
    """Twelve fixed examples in steps of four and shares of `share`."""

    def __init__(self, share=4, scores=(0.5,)):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(12, 4, generator=generator)
        self.y = torch.randint(0, 3, (12,), generator=generator)
        self.share, self.scores, self.validated = share, list(scores), 0

    def micro_batches(self, epoch, first_step):
        for step in range(first_step, 3):
            starts = range(step * 4, step * 4 + 4, self.share)
            for part, start in enumerate(starts):
                rows = slice(start, start + self.share)
                yield Micro(step, part, part == len(starts) - 1, self.share, (self.x[rows], self.y[rows]))

    def loss(self, model, micro):
        x, y = micro.batch
        return functional.cross_entropy(model(x), y, reduction="sum") / 4

    def validate(self, model, step):
        assert not model.training
        self.validated += 1
        return {"f1_macro": self.scores[min(self.validated, len(self.scores)) - 1], "loss": 1.0}


def train(model, task, folder, total_steps=None, ema_decay=None, joules=lambda: None, **spec):
    spec = Train(**({"epochs": 2, "lr": 0.05, "checkpoint_seconds": 1e9} | spec))
    task.plan = Plan(total_steps or 3 * spec.epochs, 3, 0, spec.select, spec.patience_epochs, ema_decay)
    folder = Checkpoint(folder)
    return fit(adapted(model), task, spec, 0, torch.device("cpu"), folder, lambda *a, **k: None, joules=joules)


def test_the_steps_are_those_of_adamw_written_out(tmp_path):
    model, task = Toy(), ToyTask()
    reference = copy.deepcopy(model)
    state, best, _ = train(model, task, tmp_path, weight_decay=0.1)
    spec = Train(epochs=2, lr=0.05)
    optimiser = torch.optim.AdamW([
        {"params": [reference.body.weight, reference.fc.weight], "weight_decay": 0.1},
        {"params": [reference.body.bias, reference.fc.bias], "weight_decay": 0.0},
    ])  # fmt: skip
    losses = []
    for step in range(6):
        rows = slice(step % 3 * 4, step % 3 * 4 + 4)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, 6, 0, spec)
        loss = functional.cross_entropy(reference(task.x[rows]), task.y[rows])
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
    assert [entry["train_loss"] for entry in state.history] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])


def test_no_step_waits_for_a_value(tmp_path):
    seen, read = Operations(), []

    class Watched(ToyTask):
        def micro_batches(self, epoch, first_step):
            for micro in super().micro_batches(epoch, first_step):
                yield micro
                read.append(seen.reads)

    with seen:
        train(Toy(), Watched(share=2), tmp_path, clip_norm=1.0, ema_decay=0.9)
    assert read == [0] * 12
    assert seen.reads  # the checkpoint's tensors are looked at


def test_accumulated_shares_give_the_step_of_the_whole_batch(tmp_path):
    whole, parts = Toy(), Toy()
    train(whole, ToyTask(share=4), tmp_path / "a")
    train(parts, ToyTask(share=1), tmp_path / "b")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor)


def test_the_best_epoch_on_validation_is_kept_the_earlier_of_two_alike(tmp_path):
    model = Toy()
    state, best, _ = train(model, ToyTask(scores=(0.3, 0.9, 0.9, 0.1)), tmp_path, epochs=4)
    assert (state.best_epoch, state.best_value) == (1, 0.9)
    assert not torch.equal(best["body.weight"], model.body.weight)


def test_selection_by_loss_takes_the_lowest(tmp_path):
    task = ToyTask()
    losses = iter((0.7, 0.2, 0.5))
    task.validate = lambda model, step: {"loss": next(losses)}
    state, _, _ = train(Toy(), task, tmp_path, epochs=3, select="loss")
    assert (state.best_epoch, state.best_value) == (1, 0.2)


def test_patience_counts_epochs_without_gain(tmp_path):
    task = ToyTask(scores=(0.5, 0.6, 0.4, 0.4, 0.9))
    state, _, _ = train(Toy(), task, tmp_path, epochs=9, patience_epochs=2)
    assert task.validated == 4 and state.best_epoch == 1


def test_going_on_from_a_finished_checkpoint_trains_nothing(tmp_path):
    model = Toy()
    first, best, _ = train(model, ToyTask(), tmp_path)
    again, best_again, _ = train(Toy(), task := ToyTask(), tmp_path)
    assert task.validated == 0
    assert again.history == first.history
    assert all(torch.equal(best[name], best_again[name]) for name in best)


@pytest.mark.parametrize(("stop", "ema_decay"), [*((stop, None) for stop in range(1, 12)), (5, 0.9), (8, 0.9)])
def test_stopped_after_any_share_and_started_again_it_ends_the_same(tmp_path, stop, ema_decay):
    class StopError(Exception):
        pass

    class Stopping(ToyTask):
        def loss(self, model, micro):
            nonlocal stop
            stop -= 1
            if stop == 0:
                raise StopError
            return super().loss(model, micro)

    def noisy():
        model = Toy()
        model.drop.p = 0.5
        return model

    whole = noisy()
    expected, best, _ = train(whole, ToyTask(share=2), tmp_path / "whole", ema_decay=ema_decay)
    with pytest.raises(StopError):
        train(noisy(), Stopping(share=2), tmp_path / "cut", ema_decay=ema_decay, checkpoint_seconds=0)
    torch.manual_seed(stop + 100)  # whatever ran before
    resumed = noisy()
    state, best_resumed, _ = train(
        resumed, ToyTask(share=2), tmp_path / "cut", ema_decay=ema_decay, checkpoint_seconds=0
    )
    assert state.history == expected.history
    assert all(torch.equal(resumed.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())
    assert all(torch.equal(best[name], best_resumed[name]) for name in best)


class Drawing(ToyTask):
    """Takes 10 J a step and 1,000 J a validation; power fails in the given step, counted from 0."""

    def __init__(self, fails=None):
        super().__init__(scores=(0.5, 0.6))
        self.joules, self.fails, self.steps = 0.0, fails, 0

    def loss(self, model, micro):
        self.joules += 10
        self.steps += 1
        if self.steps - 1 == self.fails:
            raise InterruptedError
        return super().loss(model, micro)

    def validate(self, model, step):
        self.joules += 1000
        return super().validate(model, step)


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_energy_is_that_of_the_training_steps_over_all_starts(tmp_path, fails):
    whole, first, second = Drawing(), Drawing(fails), Drawing()
    assert train(Toy(), whole, tmp_path / "whole", joules=lambda: whole.joules)[0].joules == 60
    with pytest.raises(InterruptedError):
        train(Toy(), first, tmp_path / "cut", joules=lambda: first.joules, checkpoint_seconds=0)
    state, _, _ = train(Toy(), second, tmp_path / "cut", joules=lambda: second.joules, checkpoint_seconds=0)
    assert state.joules == 60


def test_energy_that_was_measured_in_part_is_unknown(tmp_path):
    first, second = Drawing(fails=2), Drawing()
    with pytest.raises(InterruptedError):
        train(Toy(), first, tmp_path, checkpoint_seconds=0)
    assert train(Toy(), second, tmp_path, joules=lambda: second.joules)[0].joules is None


def test_the_loss_that_is_not_finite_is_named_by_its_step_and_never_saved(tmp_path):
    class Broken(ToyTask):
        def loss(self, model, micro):
            return super().loss(model, micro) * (float("nan") if micro.step == 2 else 1)

    with pytest.raises(RunError, match="loss became nan at step 2 of 6") as caught:
        train(Toy(), Broken(), tmp_path, checkpoint_seconds=0)
    assert "the last finite checkpoint" in caught.value.hint
    state, content = Checkpoint(tmp_path).load()
    assert state.step == 2 and all(torch.isfinite(tensor).all() for tensor in content["tensors"].values())


def test_a_trained_tensor_that_the_forward_pass_goes_around_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="extra.weight"):
        train(Unused(), ToyTask(), tmp_path)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_in_float32_tensors(tmp_path, precision):
    model = Toy()
    before = model.body.weight.detach().clone()
    state, _, _ = train(model, ToyTask(), tmp_path, precision=precision, clip_norm=1.0)
    assert model.body.weight.dtype == torch.float32 and not torch.equal(model.body.weight, before)
    assert state.history[1]["train_loss"] < state.history[0]["train_loss"]


def test_the_last_epoch_may_be_a_short_one(tmp_path):
    class Short(ToyTask):
        def micro_batches(self, epoch, first_step):
            return (m for m in super().micro_batches(epoch, first_step) if epoch * 3 + m.step < self.plan.total_steps)

    state, _, _ = train(Toy(), Short(), tmp_path, total_steps=5)
    assert [entry["step"] for entry in state.history] == [3, 5]


def test_the_last_weights_are_kept_where_nothing_selects(tmp_path):
    model, task = Toy(), ToyTask()
    losses = iter((0.2, 0.7))
    task.validate = lambda model, step: {"loss": next(losses)}
    spec = Train(lr=0.05)
    task.plan = Plan(6, 3)
    checkpoint = Checkpoint(tmp_path)
    state, best, _ = fit(adapted(model), task, spec, 0, torch.device("cpu"), checkpoint, lambda *a, **k: None)
    assert (state.best_epoch, state.best_step, state.best_value) == (1, 6, 0.7)
    assert torch.equal(best["body.weight"], model.body.weight)


def test_the_running_average_is_validated_and_kept_and_training_goes_on_without_it(tmp_path):
    class Seeing(ToyTask):
        def __init__(self):
            super().__init__()
            self.seen, self.steps = [], []

        def loss(self, model, micro):
            self.steps.append(model.body.weight.detach().clone())
            return super().loss(model, micro)

        def validate(self, model, step):
            self.seen.append(model.body.weight.detach().clone())
            return super().validate(model, step)

    plain, averaged = Seeing(), Seeing()
    model = Toy()
    train(Toy(), plain, tmp_path / "a")
    state, best, _ = train(model, averaged, tmp_path / "b", ema_decay=0.5)
    assert all(torch.equal(one, other) for one, other in zip(plain.steps, averaged.steps, strict=True))
    average = plain.steps[0]
    for step, after in enumerate([*plain.steps[1:], model.body.weight.detach()]):
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        average = decay * average + (1 - decay) * after
        if step == 2:
            torch.testing.assert_close(averaged.seen[0], average)
    torch.testing.assert_close(averaged.seen[1], average)
