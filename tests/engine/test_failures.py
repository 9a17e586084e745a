import pytest
import torch
from torch import nn

from medpeft_cli.engine.failures import enough_memory, explained
from medpeft_cli.errors import RunError
from medpeft_cli.recipe.schema import Backbone, ClassifyRecipe, Data, GenerateRecipe, MethodChoice, Pipeline

RECIPE = ClassifyRecipe(
    task="classify", data=Data(card="isic"), backbone=Backbone(name="demo_vit"), method=MethodChoice(name="ssf")
)


def test_too_little_memory_names_the_fields_that_need_less():
    with pytest.raises(RunError, match="out of memory with train.micro_batch_size 64") as caught, explained(RECIPE):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert "train.gradient_checkpointing" in caught.value.hint and "evaluate.batch_size" in caught.value.hint


def test_too_little_memory_for_pictures_names_batch_size_and_checkpointing():
    recipe = GenerateRecipe(
        task="generate",
        data=Data(card="mimic_cxr"),
        pipeline=Pipeline(name="demo_sd"),
        method=MethodChoice(name="bias"),
    )
    with pytest.raises(RunError, match="train.micro_batch_size 16, sample.batch_size 16") as caught, explained(recipe):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert "train.gradient_checkpointing=true" in caught.value.hint and "sample.batch_size" in caught.value.hint


def test_what_the_cpu_cannot_allocate_is_out_of_memory_too():
    with pytest.raises(RunError, match="out of memory"), explained(RECIPE):
        torch.empty(2**60)


def test_what_asks_for_less_memory_is_named_by_who_asked_for_it():
    with (
        pytest.raises(RunError, match="out of memory with 64 images at once: CUDA") as caught,
        explained(RECIPE),
        enough_memory("64 images at once", "a smaller --batch"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert caught.value.hint == "a smaller --batch"


def test_a_batchnorm_that_sees_one_value_names_the_way_out():
    norm = RECIPE.model_copy(update={"method": MethodChoice(name="norm", statistics="adapt")})
    for recipe, holds in ((norm, True), (RECIPE, False)):  # only a method that has the field is told to set it
        with pytest.raises(RunError, match="BatchNorm cannot adapt") as caught, explained(recipe):
            nn.BatchNorm1d(3)(torch.zeros(1, 3))
        assert ("method.statistics=hold" in caught.value.hint) is holds


def test_other_errors_pass_unchanged():
    with pytest.raises(ValueError, match="^mine$"), explained(RECIPE):
        raise ValueError("mine")
