"""What every method promises on every family it names. A cell is a method on a family."""

import pickle
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from medpeft_cli.errors import DataError, RecipeError
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt, hold_norms, probe, unreached
from medpeft_cli.methods.merge import merged_state_dict
from medpeft_cli.methods.state import (
    TENSOR_FILE,
    delta_names,
    get_delta,
    load_adapter_tensors,
    save_adapter,
    set_delta,
)
from medpeft_cli.models import sites
from tests.methods.tiny import SIZES, adapted, config_of, distance, outputs, perturb, tiny

CELLS = [(name, family) for name, method in METHODS.items() for family in method.titles]
OWN_CELLS = [cell for cell in CELLS if METHODS[cell[0]].code != "medpeft_cli.methods.hf"]
HF_CELLS = [cell for cell in CELLS if cell not in OWN_CELLS]
MISFITS = [
    (name, family)
    for name, method in METHODS.items()
    for family in ("cnn", "vit", "unet")
    if family not in method.titles
]

# of float32, through a dozen layers; methods that rebuild the weight (SVD, reflections) round differently
ROUNDING = 1e-5

# HF peft adjusts OFT's block to the layer, and looks for a CUDA extension for BOFT; it says so
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(CUDA extension|boft_n_butterfly_factor)"),
    pytest.mark.filterwarnings("ignore:.*base layer has no bias term"),  # BEFT cannot merge there, as it says
]

FAR_AT_INIT = ("lst",)  # its side network's features take the place of the backbone's

# in the module's own words, where merging is refused on this model
NO_MERGE = {("beft", "unet"): "no bias"}

REDRAWN = ("unilora", "fourierft", "waveft")  # HF peft draws their places anew from the seed in the configuration

every_cell = pytest.mark.parametrize(("name", "family"), CELLS)


def logits(model, count=2):
    with torch.no_grad():
        return outputs(model, count)


def test_the_matrix_is_complete():
    paper = [(name, family) for name, method in METHODS.items() for family in method.in_paper]
    assert sorted(paper) == [
        ("adaptformer", "vit"), ("attention", "unet"), ("attention", "vit"), ("bias", "cnn"), ("bias", "unet"),
        ("bias", "vit"), ("bias_norm_attention", "unet"), ("difffit", "unet"), ("lora", "unet"), ("lora", "vit"),
        ("norm", "cnn"), ("norm", "unet"), ("norm", "vit"), ("ssf", "cnn"), ("ssf", "vit"), ("svdiff", "unet"),
        ("tsa", "cnn"),
    ]  # fmt: skip
    assert len(paper) == 4 + 6 + 7 == 17
    assert {name for name, method in METHODS.items() if method.baseline} == {"full", "linear"}
    assert len(OWN_CELLS) == 5 + 9 + 6 + 3  # full on 3 families, linear on 2, the paper's cells but LoRA; partial, LST
    assert len(HF_CELLS) == 35 + 11 + 34  # 35 methods on ViT, those with convolutions on CNN too, all but FRoD on U-Net


@every_cell
def test_identity_at_init(name, family):
    before = logits(tiny(family))
    after = logits(adapted(name, family).model)
    if METHODS[name].exact_at_init:
        assert distance(after, before) < ROUNDING
    else:
        assert distance(after, before) > 0
        assert (distance(after, before) > 1e-2) == (name in FAR_AT_INIT)


@every_cell
def test_every_parameter_is_accounted_for(name, family):
    cell = adapted(name, family)
    assert [key for key, _ in cell.trainable()] == [
        key for key, _ in cell.model.named_parameters() if key in {*cell.method_names, *cell.head_names}
    ]
    assert not set(cell.method_names) & set(cell.head_names)
    counts = cell.counts()
    assert counts["total"] == sum(parameter.numel() for parameter in cell.model.parameters())
    assert counts["frozen"] == sum(p.numel() for p in cell.model.parameters() if not p.requires_grad)
    assert counts["head"] == (
        0 if family == "unet" else sum(p.numel() for p in tiny(family).get_classifier().parameters())
    )
    assert (counts["method"] > 0) == (name != "linear")
    assert bool(cell.matched) == (name != "linear")
    assert cell.unmatched == []
    assert bool(cell.moving_names) == (family == "cnn" and METHODS[name].moves_norm_statistics)


@every_cell
def test_training_moves_all_that_is_trained_and_nothing_else(name, family):
    cell = adapted(name, family)
    optimiser = torch.optim.AdamW([parameter for _, parameter in cell.trainable()], lr=1e-2, weight_decay=0)
    tensors = dict(cell.model.named_parameters()) | dict(cell.model.named_buffers())
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    silent = set()
    for step in range(2):
        cell.model.train()
        hold_norms(cell)
        optimiser.zero_grad()
        predicted = outputs(cell.model, 4 + step)
        functional.mse_loss(predicted, torch.linspace(-1, 1, predicted.numel()).view_as(predicted)).backward()
        if step == 0:
            silent = {key for key, parameter in cell.trainable() if not parameter.grad.any()}
        optimiser.step()
    assert bool(silent) == METHODS[name].silent_at_init
    moved = {key for key, tensor in tensors.items() if not torch.equal(tensor, before[key])}
    assert moved == {*cell.method_names, *cell.head_names, *cell.moving_names}


@every_cell
def test_the_forward_pass_reaches_every_adapter(name, family):
    cell = adapted(name, family)
    cell.model.train()
    state = torch.get_rng_state()
    probe(cell, SIZES[family])
    assert torch.equal(torch.get_rng_state(), state)
    assert cell.model.training
    assert all(parameter.grad is None for parameter in cell.model.parameters())
    outputs(cell.model).sum().backward()
    assert unreached(cell) == []


@every_cell
def test_delta_survives_a_fresh_backbone(name, family, tmp_path):
    model = tiny(family)
    torch.manual_seed(7)
    cell = adapted(name, family, model)
    perturb(cell)
    for key in cell.moving_names:
        buffer = cell.model.get_buffer(key)
        buffer.add_(1)
    save_adapter(cell, tmp_path / "adapter", {"backbone": {"name": "tiny"}, "classes": ["a", "b", "c"]})

    fresh = tiny(family)
    torch.manual_seed(7 if name in REDRAWN else 8)  # all else that is random at injection is in the file
    rebuilt = adapt(fresh, family, METHODS[name], config_of(name))
    rebuilt.model.eval()
    info, tensors = load_adapter_tensors(tmp_path / "adapter")
    assert info == {"backbone": {"name": "tiny"}, "classes": ["a", "b", "c"]}
    assert tensors.keys() == set(delta_names(cell))
    set_delta(rebuilt, tensors)
    assert torch.equal(logits(rebuilt.model), logits(cell.model))


@every_cell
def test_a_delta_that_does_not_fit_fails_loudly(name, family):
    cell = adapted(name, family)
    delta = get_delta(cell)
    before = logits(cell.model)
    first = next(iter(delta))
    wrong = {
        "missing": {key: tensor for key, tensor in delta.items() if key != first},
        "unexpected": delta | {"nothing.weight": torch.zeros(1)},
        "wanted": {key: torch.zeros(*tensor.shape, 1) for key, tensor in delta.items()},
    }
    for word, tensors in wrong.items():
        with pytest.raises(DataError, match=word):
            set_delta(cell, tensors)
    assert torch.equal(logits(cell.model), before)


@every_cell
def test_second_injection_is_refused_and_changes_nothing(name, family):
    cell = adapted(name, family)
    before = {key: tensor.clone() for key, tensor in cell.model.state_dict().items()}
    trained = [key for key, _ in cell.trainable()]
    for other in (name, "bias"):
        with pytest.raises(RecipeError, match="already has"):
            adapt(cell.model, family, METHODS[other], config_of(other))
    after = cell.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert [key for key, _ in cell.trainable()] == trained


@pytest.mark.parametrize(("name", "family"), MISFITS)
def test_other_families_are_refused_with_those_that_fit(name, family):
    model = tiny(family)
    with pytest.raises(RecipeError, match=f"method '{name}' does not fit backbone") as error:
        adapt(model, family, METHODS[name], config_of(name))
    assert f"({family}): {METHODS[name].misfits[family]}; it is for" in str(error.value)
    assert all(other in error.value.hint for other, method in METHODS.items() if family in method.titles)
    assert all(parameter.requires_grad for parameter in model.parameters())


@every_cell
def test_evaluation_is_deterministic_and_finite_in_half_precision_too(name, family):
    cell = adapted(name, family)
    perturb(cell)
    assert torch.equal(logits(cell.model), logits(cell.model))
    with torch.autocast("cpu", torch.bfloat16):
        half = logits(cell.model)
        plain = logits(tiny(family))
    assert half.dtype == plain.dtype
    assert half.isfinite().all()
    assert distance(half.float(), logits(cell.model)) < 0.1  # bfloat16 has 8 bits


@every_cell
def test_an_image_alone_is_what_it_is_in_a_batch(name, family):
    cell = adapted(name, family)
    perturb(cell)
    with torch.no_grad():
        alone = torch.cat([outputs(cell.model, 3, slice(row, row + 1)) for row in range(3)])
    assert distance(alone, logits(cell.model, 3)) < ROUNDING


@pytest.mark.parametrize(("name", "family"), OWN_CELLS)
def test_own_adapters_keep_the_models_type(name, family):
    cell = adapted(name, family)
    cell.model.to(torch.bfloat16)
    assert outputs(cell.model).dtype == torch.bfloat16


@every_cell
def test_a_copy_is_independent(name, family):
    cell = adapted(name, family)
    copy = deepcopy(cell)
    before = logits(cell.model)
    perturb(copy)
    assert torch.equal(logits(cell.model), before)
    moved = logits(copy.model)
    assert not torch.equal(moved, before)
    perturb(cell, seed=1)
    assert torch.equal(logits(copy.model), moved)


@pytest.mark.parametrize(("name", "family"), OWN_CELLS)
def test_own_methods_can_be_pickled(name, family):
    cell = adapted(name, family)
    perturb(cell)
    assert torch.equal(logits(pickle.loads(pickle.dumps(cell.model))), logits(cell.model))


@every_cell
def test_merged_weights_compute_the_same_in_the_plain_model(name, family):
    cell = adapted(name, family)
    perturb(cell)
    if not METHODS[name].mergeable:
        with pytest.raises(RecipeError, match="cannot be merged"):
            merged_state_dict(cell)
        return
    if (name, family) in NO_MERGE:
        with pytest.raises(RecipeError, match=f"cannot be merged here: .*{NO_MERGE[name, family]}"):
            merged_state_dict(cell)
        return
    before = logits(cell.model)
    plain = tiny(family)
    plain.load_state_dict(merged_state_dict(cell), strict=True)
    assert distance(logits(plain), before) < ROUNDING
    assert torch.equal(logits(cell.model), before)  # merging works on a copy


@pytest.mark.parametrize(("name", "family"), HF_CELLS)
def test_hf_peft_opens_the_folder_over_the_plain_model(name, family, tmp_path):
    import peft

    cell = adapted(name, family)
    perturb(cell)
    save_adapter(cell, tmp_path, {"backbone": {"name": "tiny"}})
    plain = tiny(family)
    for head in sites.head_names(plain):
        for parameter in plain.get_submodule(head).parameters():
            torch.nn.init.zeros_(parameter)  # the classifier comes from the folder
    opened = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    assert torch.equal(logits(opened), logits(cell.model))


@pytest.mark.parametrize(("name", "family"), OWN_CELLS)
def test_own_folders_hold_exactly_the_delta_under_the_models_names(name, family, tmp_path):
    cell = adapted(name, family)
    save_adapter(cell, tmp_path, {})
    tensors = load_file(tmp_path / TENSOR_FILE)
    assert sorted(tensors) == sorted([*cell.method_names, *cell.head_names, *cell.moving_names])
    state = cell.model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in tensors.items())
    save_file({}, tmp_path / TENSOR_FILE)
    with pytest.raises(DataError, match="missing"):
        set_delta(cell, load_adapter_tensors(tmp_path)[1])
