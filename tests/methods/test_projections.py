"""Frozen random parts (projections, places) belong to the run: drawn from its seed, given back by its folder."""

from medpeft_cli import compat  # noqa: F401  must come before peft

# isort: split
import peft
import pytest
import torch

from medpeft_cli.engine.restore import AdapterInfo, restore_adapter
from medpeft_cli.engine.seed import seed_of
from medpeft_cli.methods import METHODS
from medpeft_cli.methods.adapt import adapt
from medpeft_cli.methods.state import save_adapter
from medpeft_cli.methods.tuners import TUNERS
from medpeft_cli.models.backbones import build_backbone
from medpeft_cli.recipe.schema import Backbone, Input
from tests.methods.tiny import SIZE, config_of, images, perturb, tiny

RANDOM = [name for name, tuner in TUNERS.items() if tuner.seed is not None]


def seeded(name, seed):
    model = tiny("vit")
    torch.manual_seed(seed_of(seed, "adapter"))
    cell = adapt(model, "vit", METHODS[name], config_of(name))
    cell.model.eval()
    return cell


def test_the_methods_with_random_parts_are_known():
    assert set(RANDOM) == {
        "vera", "pvera", "randlora", "tinylora", "unilora", "frod", "shira", "fourierft", "waveft",
    }  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_two_seeds_have_different_random_parts_and_one_seed_the_same(name):
    first, again, other = seeded(name, 0), seeded(name, 0), seeded(name, 1)
    perturb(first)
    trained = dict(first.trainable())
    with torch.no_grad():
        for cell in (again, other):
            for key, parameter in cell.trainable():
                parameter.copy_(trained[key])
        assert torch.equal(again.model(images()), first.model(images()))
        assert not torch.allclose(other.model(images()), first.model(images()))


@pytest.mark.parametrize("name", RANDOM)
def test_the_folder_gives_them_back_whatever_was_drawn_before(name, tmp_path):
    spec = Backbone(name="test_vit", weights="random", options={"depth": 2}, input=Input(size=SIZE))
    built = build_backbone(spec, 3, 5)
    torch.manual_seed(seed_of(5, "adapter"))
    config = config_of(name)
    cell = adapt(built.model, "vit", METHODS[name], config)
    perturb(cell)
    info = AdapterInfo(
        run="run", demo=False, seed=5, classes=("a", "b", "c"), backbone=spec, weights_sha256=built.weights_sha256,
        family="vit", method={"name": name, **config.model_dump()}, input=vars(built.input), store_size=SIZE,
    )  # fmt: skip
    save_adapter(cell, tmp_path, info.model_dump(mode="json"))
    with torch.no_grad():
        expected = cell.model.eval()(images())
        torch.manual_seed(99)
        torch.rand(7)
        assert torch.equal(restore_adapter(tmp_path).model(images()), expected)
        torch.manual_seed(98)
        opened = peft.PeftModel.from_pretrained(build_backbone(spec, 3, 5).model, tmp_path).eval()
        assert torch.equal(opened(images()), expected)


def test_the_draw_stays_the_same_in_later_versions():
    config = seeded("fourierft", 0).injected.peft.peft_config["default"]
    assert config.random_loc_seed == 2114110702  # else adapters of earlier runs would be rebuilt with other places
