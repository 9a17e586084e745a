import json

import pytest
import torch

from medpeft_cli.errors import DataError, RunError
from medpeft_cli.methods.state import CONFIG_FILE, INFO_FILE, TENSOR_FILE, get_delta, load_adapter_tensors, save_adapter
from tests.methods.tiny import adapted, perturb

BACKBONE = {"name": "tiny", "weights": "/home/somebody/tiny.safetensors"}


def test_delta_is_a_copy():
    cell = adapted("ssf", "vit")
    delta = get_delta(cell)
    perturb(cell)
    assert all(tensor.eq(1).all() for name, tensor in delta.items() if name.endswith("scale"))


def test_own_folder_describes_itself(tmp_path):
    save_adapter(adapted("ssf", "vit"), tmp_path, {"backbone": "tiny"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE, TENSOR_FILE, INFO_FILE]
    assert json.loads((tmp_path / CONFIG_FILE).read_text()) == {
        "format": "medpeft", "format_version": 1, "method": "ssf", "config": {"init_std": 0.0}, "family": "vit",
    }  # fmt: skip


def test_hf_folder_is_the_same_bytes_each_time(tmp_path):
    cell = adapted("lora", "vit", targets=("qkv", "fc1"))
    save_adapter(cell, tmp_path / "a", {"backbone": BACKBONE})
    save_adapter(cell, tmp_path / "b", {"backbone": BACKBONE})
    config = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    assert config["modules_to_save"] == ["head"] and config["base_model_name_or_path"] == "tiny"
    assert "/home" not in (tmp_path / "a" / CONFIG_FILE).read_text()
    assert config["inference_mode"] is True
    for name in (CONFIG_FILE, TENSOR_FILE, INFO_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert cell.injected.peft.peft_config["default"].inference_mode is False


def test_damaged_folders_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="adapter_config.json"):
        load_adapter_tensors(tmp_path)
    save_adapter(adapted("bias", "cnn"), tmp_path, {})
    config = (tmp_path / CONFIG_FILE).read_text()
    (tmp_path / CONFIG_FILE).write_text(config.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(DataError, match="adapter format 9, wanted 1"):
        load_adapter_tensors(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("[1]")
    with pytest.raises(DataError, match="damaged adapter: adapter_config.json is no map"):
        load_adapter_tensors(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(config)
    tensors = (tmp_path / TENSOR_FILE).read_bytes()
    (tmp_path / TENSOR_FILE).write_bytes(tensors[: len(tensors) // 2])
    with pytest.raises(DataError, match="damaged adapter"):
        load_adapter_tensors(tmp_path)
    (tmp_path / TENSOR_FILE).unlink()
    with pytest.raises(DataError, match=TENSOR_FILE):
        load_adapter_tensors(tmp_path)


def test_an_unwritable_place_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        save_adapter(adapted("bias", "cnn"), tmp_path / "file" / "adapter", {})


def test_counts_of_the_batch_norm_state():
    cell = adapted("norm", "cnn")
    buffers = [cell.model.get_buffer(name) for name in cell.moving_names]
    assert cell.counts()["moving_buffers"] == sum(buffer.numel() for buffer in buffers)
    assert {buffer.dtype for buffer in buffers} == {torch.float32, torch.int64}
