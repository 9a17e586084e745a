"""DiffFit against its equation, on a whole U-Net."""

from functools import partial

import pytest
import torch
from torch import nn

from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.models import sites
from tests.methods.tiny import adapted, distance, outputs, perturb, with_noise
from tests.toys import toy_unet


def attention(module, gamma, x, context):
    """Softmax attention with a scale on query, key, value and output, written out."""
    q, k, v = (
        gamma.get(name, 1) * getattr(module, name)(source)
        for name, source in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    q, k, v = (t.unflatten(-1, (module.heads, -1)).transpose(1, 2) for t in (q, k, v))
    mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return gamma.get("to_out.0", 1) * module.to_out[0](mixed.transpose(1, 2).flatten(2))


def block_forward(block, gammas, x, encoder_hidden_states=None, **_):
    """x + γ₁ · attn1, x + γ₂ · attn2, x + γ₃ · ff (Xie et al. 2023)."""
    y = block.norm1(x)
    x = x + gammas["attn1"][""] * attention(block.attn1, gammas["attn1"], y, y)
    x = x + gammas["attn2"][""] * attention(block.attn2, gammas["attn2"], block.norm2(x), encoder_hidden_states)
    return x + gammas["ff"][""] * block.ff(block.norm3(x))


@pytest.mark.parametrize("scales", ["branches", "projections"])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_whole_unet_computes_the_equation_plain_and_merged(kind, scales):
    cell = adapted("difffit", "unet", with_noise(toy_unet(kind)), scales=scales)
    perturb(cell)
    state = cell.model.state_dict()
    reference = toy_unet(kind)
    reference.load_state_dict({key: value for key, value in state.items() if "difffit" not in key})
    found = 0
    for name, block in sites.unet_blocks(reference):
        gammas = {"attn1": {}, "attn2": {}, "ff": {}}
        for key, value in state.items():
            if key.startswith(f"{name}.") and key.endswith("difffit.gamma"):
                branch, _, projection = key.removeprefix(f"{name}.").removesuffix("difffit.gamma").partition(".")
                gammas[branch][projection.removesuffix(".")] = value
                found += 1
        block.forward = partial(block_forward, block, gammas)
    assert found == (11 if scales == "projections" else 3) * len(sites.unet_blocks(reference))
    merged = toy_unet(kind)
    merged.load_state_dict(merged_state_dict(cell))
    with torch.no_grad():
        expected = outputs(reference)
        assert distance(outputs(cell.model), expected) < 1e-5
        assert distance(outputs(merged), expected) < 1e-5


def test_biases_norms_and_scales_are_trained():
    cell = adapted("difffit", "unet", toy_unet())
    plain = toy_unet()
    norms = {name for name, module in plain.named_modules() if isinstance(module, (nn.GroupNorm, nn.LayerNorm))}
    selected = {
        name for name, _ in plain.named_parameters() if name.endswith(".bias") or name.rpartition(".")[0] in norms
    }
    scales = {
        f"{block}.{branch}.difffit.gamma"
        for block, _ in sites.unet_blocks(plain)
        for branch in ("attn1", "attn2", "ff")
    }
    assert set(cell.method_names) == selected | scales
    # the rule of the paper, by names (p. 19)
    words = ("bias", "norm", "gamma", "y_embed")
    by_name = {name for name, _ in cell.model.named_parameters() if any(word in name for word in words)}
    assert set(cell.method_names) == by_name
