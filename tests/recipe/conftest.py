"""A folder with a base recipe, and a way to write recipes on top of it."""

import pytest

BASE = """\
task: classify
backbone: {name: vit_base_patch16_224.augreg_in21k}
data: {card: isic}
method: {name: lora, rank: 4}
train: {lr: 1e-3, betas: [0.9, 0.99]}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return write(text, name="r.yaml") -> path, in an empty current folder that holds base.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)

    def write(text, name="r.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path.relative_to(tmp_path)

    return write
