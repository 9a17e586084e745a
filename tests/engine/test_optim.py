import math

import pytest
import torch
from torch import nn

from medpeft_cli.engine.optim import build_optimiser, learning_rate
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.recipe.schema import Train


def test_rate_warms_up_linearly_then_falls_by_half_a_cosine():
    spec = Train(lr=1.0)
    rates = [learning_rate(step, 40, 10, spec) for step in range(40)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 30)) for step in range(30)])


def test_constant_rate_stays_at_its_peak():
    spec = Train(lr=0.3, schedule="constant")
    assert {learning_rate(step, 10, 0, spec) for step in range(10)} == {0.3}


def test_a_warmup_longer_than_training_never_divides_by_zero():
    spec = Train(lr=1.0)
    assert learning_rate(3, 4, 20, spec) == 1.0


def test_tensors_of_one_dimension_are_not_decayed():
    layer = nn.Linear(3, 2)
    optimiser = build_optimiser(layer.named_parameters(), Train(weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decay == {id(layer.weight): 0.5, id(layer.bias): 0.0}


def test_a_scale_stored_with_sides_of_one_and_exempt_names_are_not_decayed():
    tensors = {
        "scale": nn.Parameter(torch.ones(1, 16, 1, 1)),
        "pos_embed": nn.Parameter(torch.ones(1, 4, 8)),
        "weight": nn.Parameter(torch.ones(4, 8)),
    }
    optimiser = build_optimiser(tensors.items(), Train(weight_decay=0.5), undecayed={"pos_embed"})
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert [decay[id(tensor)] for tensor in tensors.values()] == [0.0, 0.0, 0.5]


def test_a_method_of_vectors_alone_makes_a_valid_optimiser():
    scale = nn.Parameter(torch.ones(3))
    optimiser = build_optimiser([("scale", scale)], Train(lr=0.1))
    scale.sum().backward()
    optimiser.step()
    assert (scale < 1).all()


def test_seeds_of_two_purposes_and_of_two_runs_differ():
    seeds = {seed_of(seed, purpose) for seed in range(100) for purpose in ("head", "order", "augment", "dropout/0/1/2")}
    assert len(seeds) == 400
    assert seed_of(3, "head") == seed_of(3, "head")
