"""AdaLoRA in training: the rank shrinks to its target, and a restart goes on as if nothing had happened."""

from medpeft_cli import compat  # noqa: F401  must come before peft

# isort: split
import peft
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from medpeft_cli.methods import METHODS
from medpeft_cli.methods.state import get_delta, save_adapter, set_delta
from tests.methods.tiny import adapted, images, tiny

STEPS = 10
PARAMETERS = {"rank": 6, "target_rank": 2, "warmup": 0.2, "settle": 0.3}


def train(cell, optimiser, steps):
    for step in steps:
        cell.model.train()
        optimiser.zero_grad()
        functional.cross_entropy(cell.model(images(4, seed=step)), torch.tensor([0, 1, 2, 0])).backward()
        cell.schedule.penalty().backward()
        optimiser.step()
        cell.schedule.after_step(step)


def start():
    torch.manual_seed(0)
    cell = adapted("adalora", "vit", **PARAMETERS)
    cell.schedule.start(STEPS)
    return cell, torch.optim.AdamW([parameter for _, parameter in cell.trainable()], lr=1e-2)


def kept(cell):
    return sum(int(p.ne(0).sum()) for name, p in cell.model.named_parameters() if "lora_E" in name)


def test_the_mean_rank_shrinks_to_its_target():
    cell, optimiser = start()
    train(cell, optimiser, range(4))
    assert 2 * 2 < kept(cell) <= 2 * 6
    train(cell, optimiser, range(4, STEPS))
    assert kept(cell) == 2 * 2  # two layers


def test_a_restart_at_any_step_takes_the_same_steps():
    whole, optimiser = start()
    train(whole, optimiser, range(STEPS))
    for stop in (1, 5, 8):
        first, optimiser = start()
        train(first, optimiser, range(stop))
        delta, moments, schedule = get_delta(first), optimiser.state_dict(), first.schedule.state()

        second, optimiser = start()
        set_delta(second, delta)
        optimiser.load_state_dict(moments)
        second.schedule.set_state(schedule)
        train(second, optimiser, range(stop, STEPS))
        expected = get_delta(whole)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in get_delta(second).items())


def test_the_penalty_is_the_distance_of_the_factors_from_orthogonal():
    cell, _ = start()
    distances = []
    for block in cell.model.blocks:
        A, B = block.attn.qkv.lora_A.default, block.attn.qkv.lora_B.default  # (6, 64), (192, 6)
        distances += [(A @ A.T - torch.eye(6)).square().sum().sqrt(), (B.T @ B - torch.eye(6)).square().sum().sqrt()]
    torch.testing.assert_close(cell.schedule.penalty(), 0.5 * torch.stack(distances).mean())


def test_the_penalty_is_computed_in_float32_in_half_precision_too():
    cell, _ = start()
    with torch.autocast("cpu", torch.bfloat16):
        half = cell.schedule.penalty()
    assert torch.equal(half, cell.schedule.penalty())


@pytest.mark.parametrize("step", [3, 6])  # while the rank shrinks, and the step at which it settles
def test_a_gradient_that_is_not_finite_is_forgotten(step):
    cell, optimiser = start()
    train(cell, optimiser, range(step))
    before = cell.schedule.state()
    cell.model(images(4)).sum().backward()
    cell.model.blocks[0].attn.qkv.lora_A.default.grad[0, 0] = torch.inf
    cell.schedule.after_step(step)  # the optimiser left this step out
    optimiser.zero_grad()
    after = cell.schedule.state()
    moments = [key for key in after if key.startswith("exp_avg")]
    assert bool(moments) == (step == 3) and all(torch.equal(after[key], before[key]) for key in moments)
    train(cell, optimiser, range(step + 1, STEPS))
    assert kept(cell) == 2 * 2


def test_steps_that_are_left_out_do_not_leave_the_rank_unsettled():
    cell, optimiser = start()
    train(cell, optimiser, range(4))
    train(cell, optimiser, range(7, STEPS))  # 6 would have settled it
    assert kept(cell) == 2 * 2


def test_a_training_of_one_step_masks_nothing():
    cell, optimiser = start()
    cell.schedule.start(1)
    train(cell, optimiser, range(1))
    assert cell.schedule.state() == {}


def test_the_rank_must_have_something_to_lose():
    with pytest.raises(ValidationError, match="target_rank: 8, wanted less than rank 8"):
        METHODS["adalora"].config(rank=8, target_rank=8)


def test_other_methods_have_no_schedule():
    cell = adapted("lora", "vit", tiny("vit"))
    cell.schedule.start(STEPS)
    cell.schedule.after_step(0)
    assert cell.schedule.penalty() is None and cell.schedule.state() == {}


def test_hf_peft_opens_what_was_trained(tmp_path):
    cell, optimiser = start()
    train(cell, optimiser, range(STEPS))
    cell.model.eval()
    save_adapter(cell, tmp_path, {"backbone": {"name": "tiny"}})
    opened = peft.PeftModel.from_pretrained(tiny("vit"), tmp_path).eval()
    assert torch.equal(opened(images()), cell.model(images()))
