import pytest
import torch
from torch import nn
from torch.nn import functional

from medpeft_cli.errors import RecipeError
from medpeft_cli.methods.adapt import hold_norms
from medpeft_cli.models.cut import Cut
from tests.methods.tiny import adapted, build, images, perturb, tiny

CUT = Cut("lst", ("lst",))


def trained(model: nn.Module | None = None, **parameters):
    cell = adapted("lst", "vit", model, **parameters)
    perturb(cell)
    return cell


def hidden_states(model, pixels):
    """Embedded tokens and output of each block of a plain ViT, one after the other."""
    states = [model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))]
    for block in model.blocks:
        states.append(block(states[-1]))
    return torch.stack(states, dim=1)


def test_equation():
    model, plain = trained().model, tiny("vit")
    ladder, hidden = model.lst, hidden_states(plain, images())
    gates = 1 / (1 + torch.exp(-ladder.gates / 0.1))
    side = hidden[:, 0] @ ladder.down[0].weight.T + ladder.down[0].bias
    for i, block in enumerate(ladder.blocks):
        read = hidden[:, i + 1] @ ladder.down[i + 1].weight.T + ladder.down[i + 1].bias
        side = gates[i] * side + (1 - gates[i]) * read
        side = side + block.attn(block.norm1(side))
        side = side + block.mlp(block.norm2(side))
    tokens = functional.layer_norm(side, (8,), ladder.norm.weight, ladder.norm.bias, 1e-6)
    tokens = tokens @ ladder.up.weight.T + ladder.up.bias
    expected = tokens[:, 0] @ model.head.weight.T + model.head.bias  # the class token is read
    torch.testing.assert_close(model(images()), expected)


def test_side_blocks_have_the_backbones_heads_and_the_gates_start_half_open():
    ladder = adapted("lst", "vit", reduction=4).model.lst
    assert [(block.attn.num_heads, block.norm1.weight.numel()) for block in ladder.blocks] == [(2, 16)] * 2
    assert torch.equal(ladder.gates, torch.zeros(2))


def test_below_it_is_the_plain_backbone_and_the_logits_follow_from_its_hidden_states_alone():
    model = trained().model
    hidden = CUT.below(model, images())
    torch.testing.assert_close(hidden, hidden_states(tiny("vit"), images()))
    assert torch.equal(CUT.rest(model, hidden), model(images()))


def test_no_gradient_flows_through_the_backbone():
    model = trained().model.train()
    seen = []
    with model.lst.register_forward_pre_hook(lambda ladder, args: seen.append(args[0])):
        logits = model(images())
    assert logits.requires_grad
    assert not seen[0].requires_grad


def test_without_ladders_the_blocks_outputs_do_not_matter():
    model = trained().model
    hidden = CUT.below(model, images())
    other = hidden.clone()
    other[:, 1:] = torch.randn_like(other[:, 1:])
    assert not torch.equal(CUT.rest(model, other), CUT.rest(model, hidden))
    for down in model.lst.down[1:]:
        nn.init.zeros_(down.weight)
    assert torch.equal(CUT.rest(model, other), CUT.rest(model, hidden))


def test_the_backbone_drops_nothing_while_the_side_network_is_trained():
    model = build("test_vit", img_size=32, depth=2, proj_drop_rate=0.5, drop_path_rate=0.5)
    cell = trained(model)
    expected = CUT.below(model, images())
    model.train()
    hold_norms(cell)
    assert torch.equal(CUT.below(model, images()), expected)


def test_a_forward_pass_that_was_interrupted_leaves_nothing():
    model = trained().model
    expected = model(images())

    def stop(block, args):
        raise KeyboardInterrupt

    with model.blocks[1].register_forward_pre_hook(stop), pytest.raises(KeyboardInterrupt):
        model(images(seed=1))
    assert torch.equal(model(images()), expected)
    assert model.lst.below == []


def test_heads_of_broken_width_are_refused():
    with pytest.raises(RecipeError, match="method.reduction: 3, wanted one that leaves 2 heads .*: a divisor of 32"):
        adapted("lst", "vit", reduction=3)
