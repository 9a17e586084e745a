import pytest
import torch

from medpeft_cli import compat  # noqa: F401  (before timm)
from medpeft_cli.data.images import InputSpec
from medpeft_cli.engine.predict import normalise


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_each_channel_has_its_mean_and_spread_whatever_the_order_in_memory(memory_format):
    spec = InputSpec(17, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)
    images = torch.randint(0, 256, (2, 3, 17, 17), dtype=torch.uint8).contiguous(memory_format=memory_format)
    before = images.clone()
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (spec.mean, spec.std))
    found = normalise(images, spec)
    assert torch.equal(found, (images.float() - mean) / std)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
