import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression

from medpeft_cli.demo import networks, twins
from medpeft_cli.errors import DataError

NAMES = sorted(networks.NETWORKS)


def headless(name, pretrained=True):
    torch.manual_seed(0)
    model = networks.NETWORKS[name](num_classes=0)
    if pretrained:
        networks.load_bundled(model, name)
    return model.eval()


def test_the_weights_fit_into_eight_megabytes():
    files = list(networks.WEIGHTS.glob("*.safetensors"))  # the pipeline has a test of its own
    assert sorted(path.stem for path in files) == NAMES
    assert sum(path.stat().st_size for path in files) <= 8e6


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_say_where_they_come_from(name):
    with safe_open(networks.WEIGHTS / f"{name}.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {"what", "script", "source_accuracy"}
    assert f"medpeft_cli.demo.pretrain --network {name}" in metadata["script"]


@pytest.mark.parametrize("name", NAMES)
def test_the_bundled_weights_give_finite_float32_features(name):
    model = headless(name)
    assert all(
        t.dtype == torch.float32 and t.isfinite().all() for t in model.state_dict().values() if t.is_floating_point()
    )
    with torch.inference_mode():
        features = model(torch.randn(2, 3, 64, 64))
    assert features.isfinite().all()
    assert features.shape == (2, model.num_features)


@pytest.mark.parametrize("name", NAMES)
def test_the_features_tell_lesions_apart_better_than_random_ones(name):
    per_class = {}
    for entry in twins.entries("isic"):
        per_class.setdefault(entry.label, []).append(entry)
    sample = [entry for entries in per_class.values() for entry in entries[:36]]
    pixels = np.stack([twins.draw("isic", entry) for entry in sample])
    labels = np.array([entry.label for entry in sample])
    trained = np.arange(len(sample)) % 36 < 24  # by patient up to one at the border
    inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    accuracy = {}
    for pretrained in (True, False):
        with torch.inference_mode():
            features = headless(name, pretrained)(inputs).numpy()
        features = (features - features[trained].mean(0)) / (features[trained].std(0) + 1e-6)
        probe = LogisticRegression(C=0.01, max_iter=2000).fit(features[trained], labels[trained])
        accuracy[pretrained] = probe.score(features[~trained], labels[~trained])
    assert accuracy[True] >= accuracy[False] + 0.05
    assert accuracy[True] > 3 / 7


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_shape_are_refused(name):
    options = {"demo_vit": {"embed_dim": 64}, "demo_resnet": {"layers": (1, 1, 1, 1)}}[name]
    with pytest.raises(DataError, match="do not fit"):
        networks.load_bundled(networks.NETWORKS[name](num_classes=0, **options), name)


def test_missing_weights_are_an_error_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "WEIGHTS", tmp_path)
    with pytest.raises(DataError, match="missing") as caught:
        networks.load_bundled(networks.demo_vit(num_classes=0), "demo_vit")
    assert "install" in caught.value.hint
