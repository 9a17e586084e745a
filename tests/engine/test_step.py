"""One step of an adapted backbone: it waits for no value, and attention stays the fused one."""

import pytest
import torch
from torch.nn import functional

from medpeft_cli.data.images import InputSpec
from medpeft_cli.demo.networks import DEMO_INPUT, demo_vit
from medpeft_cli.engine.predict import normalise
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt
from tests.operations import Operations

SPEC = InputSpec(64, DEMO_INPUT["mean"], DEMO_INPUT["std"], "bicubic", 1.0)
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


@pytest.mark.parametrize("name", ["full", "lora", "ssf", "adaptformer"])
def test_attention_stays_fused_and_nothing_waits_for_a_value(name):
    model = demo_vit(3)
    adapted = adapt(model, "vit", METHODS[name], METHODS[name].config())
    images, labels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), torch.tensor([0, 1, 2, 1])
    parameters = [parameter for _, parameter in adapted.trainable()]
    with Operations() as seen:
        functional.cross_entropy(model.train()(normalise(images, SPEC)), labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    assert seen.counts[FUSED] == len(model.blocks)
    assert seen.reads == 0
