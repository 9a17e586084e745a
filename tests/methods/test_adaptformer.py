import pytest
import torch
from torch.nn import functional

from medpeft_cli.errors import RecipeError
from tests.methods.tiny import SIZE, adapted, build, images, perturb, tiny


def branch_by_hand(branch, x):
    hidden = functional.relu(x @ branch.down.weight.T + branch.down.bias)
    return branch.scale * (hidden @ branch.up.weight.T + branch.up.bias)


@pytest.mark.parametrize("branch_input", ["norm", "residual"])
def test_equation(branch_input):
    cell = adapted("adaptformer", "vit", branch_input=branch_input)
    perturb(cell)
    block, x = cell.model.blocks[0], torch.randn(2, 5, 64)
    middle = x + block.attn(block.norm1(x))
    read = block.norm2(middle) if branch_input == "norm" else middle
    expected = middle + block.mlp(block.norm2(middle)) + branch_by_hand(block.adaptformer, read)
    torch.testing.assert_close(block(x), expected)


def test_layer_scale_and_drop_path_do_not_act_on_the_branch():
    model = build("vit_small_patch14_reg4_dinov2", depth=1, embed_dim=64, num_heads=2, img_size=28)
    cell = adapted("adaptformer", "vit", model)
    perturb(cell)
    with torch.no_grad():
        model.blocks[0].ls2.gamma.zero_()
    block, x = model.blocks[0], torch.randn(2, 5, 64)
    middle = x + block.ls1(block.attn(block.norm1(x)))
    torch.testing.assert_close(block(x), middle + branch_by_hand(block.adaptformer, block.norm2(middle)))


def test_swins_blocks_keep_their_shape():
    model = build(
        "swin_tiny_patch4_window7_224", embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4, img_size=SIZE
    )
    cell = adapted("adaptformer", "vit", model)
    widths = [block.adaptformer.down.in_features for block in (model.layers[0].blocks[0], model.layers[1].blocks[0])]
    assert widths == [16, 32]
    perturb(cell)
    assert model(images()).shape == (2, 3)


def test_dropout_acts_in_training_only():
    cell = adapted("adaptformer", "vit", dropout=0.9)
    perturb(cell)
    assert torch.equal(cell.model(images()), cell.model(images()))
    cell.model.train()
    assert not torch.equal(cell.model(images()), cell.model(images()))


def test_nothing_is_kept_after_a_forward_pass():
    cell = adapted("adaptformer", "vit")
    cell.model(images())
    assert all(block.adaptformer.reads == [] for block in cell.model.blocks)


def test_a_bottleneck_as_wide_as_the_tokens_is_refused():
    with pytest.raises(RecipeError, match="method.bottleneck: 64 at blocks.0, wanted less than its width 64"):
        adapted("adaptformer", "vit", tiny("vit"), bottleneck=64)
