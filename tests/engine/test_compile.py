"""Compiled blocks: the same training, nothing left behind, and plain blocks where the compiler fails."""

import copy
import os
import tempfile

import pytest
import torch
from torch.nn import functional

from medpeft_cli.demo.networks import demo_resnet, demo_vit
from medpeft_cli.engine.compile import compiled
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt
from medpeft_cli.models import sites
from tests.toys import toy_unet

TOLERANCE = 1e-5  # of the largest gradient of a tensor: float32 sums in another order


@pytest.fixture
def adapted():
    """LoRA with dropout in two blocks of the bundled ViT, and in the classifier's place a random one."""
    torch.manual_seed(0)
    method = METHODS["lora"]
    found = adapt(demo_vit(3, depth=2), "vit", method, method.config(dropout=0.2))
    for _, parameter in found.trainable():
        torch.nn.init.normal_(parameter, std=0.1)
    found.model.train()
    return found


def step(adapted):
    """Return the loss and the gradients of one share, drawn anew."""
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(4, 3, 64, 64, generator=generator), torch.tensor([0, 1, 2, 1])
    torch.manual_seed(2)
    adapted.model.zero_grad()
    loss = functional.cross_entropy(adapted.model(images), labels)
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in adapted.trainable()}


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own parts
def test_compiled_blocks_train_alike_and_validate_the_same(adapted, monkeypatch):
    from torch._dynamo.utils import counters

    kept = f"{tempfile.gettempdir()}/medpeft-inductor-{os.getuid()}"  # from one test run to the next: it takes half a minute
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", kept)
    model = adapted.model
    keys, images = list(model.state_dict()), torch.randn(4, 3, 64, 64)
    loss, gradients = step(adapted)
    with torch.inference_mode():
        torch.manual_seed(3)
        logits = model(images)
    before = counters["stats"]["unique_graphs"]
    with compiled(model, True):
        found, found_gradients = step(adapted)
        used = counters["stats"]["unique_graphs"] - before
        assert list(model.state_dict()) == keys
        with torch.inference_mode():
            torch.manual_seed(3)
            assert torch.equal(model(images), logits)
    assert used >= 1
    assert found == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        assert (found_gradients[name] - gradient).abs().max() <= TOLERANCE * gradient.abs().max(), name
    assert step(adapted)[0] == loss
    assert counters["stats"]["unique_graphs"] == before + used
    assert not any("forward" in vars(module) for module in copy.deepcopy(model).modules())


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_where_there_is_no_compiler(adapted, tmp_path, monkeypatch, capsys):
    from torch import _dynamo, _inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    _dynamo.reset()
    loss, gradients = step(adapted)
    with _inductor.config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)}), compiled(adapted.model, True):
        found, found_gradients = step(adapted)
        again, _ = step(adapted)
    warnings = capsys.readouterr().err.splitlines()
    assert sum("train.compile:" in line for line in warnings) == 1
    assert "training goes on uncompiled" in warnings[-1] and "compiler" in warnings[-1].lower()
    assert found == again == loss
    assert all(torch.equal(found_gradients[name], gradient) for name, gradient in gradients.items())


def test_the_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    with compiled(demo_vit(2, depth=1), True):
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "medpeft" / "inductor")


def test_every_block_is_known_once_and_a_plain_network_has_none(capsys):
    assert len(sites.repeated_blocks(demo_vit(2))) == 6
    assert len(sites.repeated_blocks(demo_resnet(2))) == 8
    kinds = [type(block).__name__ for block in sites.repeated_blocks(toy_unet())]
    assert set(kinds) == {"BasicTransformerBlock", "ResnetBlock2D"}
    with compiled(torch.nn.Sequential(torch.nn.Linear(2, 2)), True):
        pass
    assert "no blocks are known of 'Sequential'" in capsys.readouterr().err
