"""SV-Diff against its equation, on a whole U-Net."""

import pytest
import torch
from torch import nn

from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.methods.svdiff import SpectralShift, decompose
from tests.methods.tiny import adapted, distance, outputs, perturb, with_noise
from tests.toys import toy_unet

LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)


def shifted(weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """U · diag(relu(σ + δ)) · Vᵀ, written out."""
    matrix = weight.double().reshape(1, -1) if weight.ndim == 1 else weight.double().flatten(1)
    U, S, Vt = torch.linalg.svd(matrix, full_matrices=False)
    return (U @ torch.diag((S + delta.double()).clamp(min=0)) @ Vt).reshape(weight.shape).float()


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_whole_unet_computes_the_equation_plain_and_merged(kind):
    plain, reference = with_noise(toy_unet(kind)), with_noise(toy_unet(kind))
    reference.load_state_dict(plain.state_dict())
    with torch.no_grad():
        before = outputs(plain)
    cell = adapted("svdiff", "unet", plain)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in cell.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.5)  # some fall below -σ
            layer = reference.get_submodule(name.removesuffix(".svdiff.delta"))
            layer.weight.copy_(shifted(layer.weight, parameter))
        expected = outputs(reference)
        assert distance(expected, before) > 0.1
        assert distance(outputs(cell.model), expected) < 1e-4  # of float32 decompositions
        merged = toy_unet(kind)
        merged.load_state_dict(merged_state_dict(cell))
        assert distance(outputs(merged), expected) < 1e-4


def test_every_weight_has_a_shift_for_each_singular_value_and_biases_stay():
    cell = adapted("svdiff", "unet", toy_unet())
    layers = {name: layer for name, layer in toy_unet().named_modules() if isinstance(layer, LAYERS)}
    assert cell.method_names == [f"{name}.svdiff.delta" for name in layers]
    for name, layer in layers.items():
        matrix = layer.weight.reshape(1, -1) if layer.weight.ndim == 1 else layer.weight.flatten(1)
        assert cell.model.get_parameter(f"{name}.svdiff.delta").shape == (min(matrix.shape),)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (1, 7), (5, 5)])
def test_the_decomposition_is_that_of_linear_algebra(shape):
    matrix = torch.randn(shape, dtype=torch.float64)
    left, values, right = decompose(matrix)
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix))
    torch.testing.assert_close(left * values @ right, matrix)
    for basis in (left.mT @ left, right @ right.mT):
        torch.testing.assert_close(basis, torch.eye(len(values), dtype=torch.float64))


def test_a_weight_of_lower_rank_or_of_zeros_stays_finite():
    for matrix in (torch.outer(torch.ones(4), torch.arange(5.0)).double(), torch.zeros(4, 5, dtype=torch.float64)):
        left, values, right = decompose(matrix)
        assert left.isfinite().all() and right.isfinite().all()
        torch.testing.assert_close(left * values @ right, matrix)


@pytest.mark.parametrize("name", ["svdiff", "difffit", "lora", "bias"])
def test_checkpointed_activations_give_the_same_gradients(name):
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        cell = adapted(name, "unet", with_noise(toy_unet()))
        perturb(cell)
        cell.model.train()
        if checkpointed:
            cell.model.enable_gradient_checkpointing()
        outputs(cell.model).square().sum().backward()
        gradients.append([parameter.grad for _, parameter in cell.trainable()])
        assert not any("weight" in vars(module) for module in cell.model.modules())
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_singular_values_are_never_negative():
    weight = torch.randn(6, 4)
    shift = SpectralShift(weight)
    nn.init.constant_(shift.delta, -1e6)
    assert shift(weight).abs().max() < 1e-5


def test_the_weight_is_put_back_even_after_an_error():
    cell = adapted("svdiff", "unet", toy_unet())
    layer = cell.model.conv_in
    before = layer.weight
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 3, 8, 8))  # four channels are wanted
    assert layer.weight is before


def test_the_bases_move_with_the_model_and_are_not_saved():
    cell = adapted("svdiff", "unet", toy_unet())
    assert not any(key.endswith(("left", "right", "values")) for key in cell.model.state_dict())
    assert cell.model.to(torch.float64).conv_in.svdiff.left.dtype == torch.float64
