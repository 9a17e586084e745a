import numpy as np
import pytest
import torch
from safetensors import safe_open

from medpeft_cli.demo import networks, pretrain, source


def test_every_class_comes_equally_often_and_the_seed_decides_the_pictures():
    pictures, labels, colours = source.make_source(2 * source.CLASSES, seed=3)
    again, *_ = source.make_source(2 * source.CLASSES, seed=3)
    other, *_ = source.make_source(2 * source.CLASSES, seed=4)
    assert (pictures.shape, pictures.dtype) == ((2 * source.CLASSES, 64, 64, 3), np.uint8)
    assert set(np.bincount(labels, minlength=source.CLASSES)) == {2}
    assert (colours.shape, colours.min() >= 0, colours.max() <= 1) == ((2 * source.CLASSES, 6), True, True)
    np.testing.assert_array_equal(pictures, again)
    assert (pictures != other).any()


def test_no_source_picture_is_flat():
    pictures, labels, _ = source.make_source(source.CLASSES, seed=0)
    assert labels[pictures.std(axis=(1, 2, 3)) < 2].tolist() == []


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_pre_trained_weights_are_stored_in_half_precision_and_load_again(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "HELD_OUT", source.CLASSES)
    model, accuracy = pretrain.pretrain(name, pictures=source.CLASSES, epochs=1, batch_size=48, lr=1e-3, seed=0)
    assert 0 <= accuracy <= 1
    pretrain.save(model, tmp_path / f"{name}.safetensors", {"what": "a test"})
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.safetensors"]
    monkeypatch.setattr(networks, "WEIGHTS", tmp_path)
    loaded = networks.NETWORKS[name](num_classes=0)
    networks.load_bundled(loaded, name)
    for key, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[key], rtol=2**-10, atol=1e-6, msg=key)
    with safe_open(tmp_path / f"{name}.safetensors", framework="pt") as file:
        assert file.get_tensor(next(k for k in file.keys() if k.endswith("weight"))).dtype == torch.float16  # noqa: SIM118
