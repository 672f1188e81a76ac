"""Bad inputs 16 to 19: checkpoints from outside."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tailkeep.errors import BAD_INPUT, BadInput, TailkeepWarning
from tailkeep.models.checkpoint import load_into, load_weights
from tailkeep.models.digits import DigitsNet

SHAPE = (1, 8, 8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DigitsNet().build(10, SHAPE)


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save(state, path):
    save_file(state, str(path)) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_round_trip(model, tmp_path, name):
    path = save(state_of(model), tmp_path / name)
    other = DigitsNet().build(10, SHAPE)
    assert load_into(other, load_weights(path), str(path)) == []
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_old_torch_format_is_read(model, tmp_path):
    torch.save(state_of(model), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert load_weights(tmp_path / "w.pt").keys() == model.state_dict().keys()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_16_a_pickled_whole_model_is_refused_with_the_conversion(model, tmp_path):
    path = tmp_path / "whole.pt"
    torch.save(model, path)
    with pytest.raises(BadInput, match="holds pickled Python objects") as caught:
        load_weights(path)
    assert caught.value.exit_code == BAD_INPUT
    text = str(caught.value)
    assert "save_file(" in text
    assert "state_dict()" in text
    assert str(path.with_suffix(".safetensors")) in text


def test_16_the_conversion_shown_works(model, tmp_path):
    path = tmp_path / "whole.pt"
    torch.save(model, path)
    with pytest.raises(BadInput) as caught:
        load_weights(path)
    snippet = [line.strip() for line in str(caught.value).splitlines()[1:]]
    exec("\n".join(snippet), {})
    loaded = load_weights(path.with_suffix(".safetensors"))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("new_format", [True, False])
def test_16_nothing_in_a_checkpoint_runs(tmp_path, new_format):
    trap = tmp_path / "sprung"
    torch.save(
        {"weight": torch.zeros(2), "x": Trap(trap)}, tmp_path / "w.pt", _use_new_zipfile_serialization=new_format
    )
    with pytest.raises(BadInput, match="pickled Python objects"):
        load_weights(tmp_path / "w.pt")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(BadInput):
        load_weights(tmp_path / "plain.pth")
    assert not trap.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_16_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "w.pt"))
    with pytest.raises(BadInput, match="TorchScript archive, which holds code"):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_17_a_truncated_file_is_told(model, tmp_path, name, share):
    path = save(state_of(model), tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadInput, match="truncated"):
        load_weights(path)


def test_17_a_truncated_file_of_the_old_format_is_told(model, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(state_of(model), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BadInput, match="truncated or damaged"):
        load_weights(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_17_a_git_lfs_pointer_is_told(tmp_path, name):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1086760\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match="Git LFS pointer, not the weights; run `git lfs pull`"):
        load_weights(tmp_path / name)


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html>", "\n  <html lang=en>", "\ufeff<!doctype HTML>"])
def test_17_a_web_page_is_told(tmp_path, page):
    (tmp_path / "w.safetensors").write_text(page + "<body>Sign in</body></html>", encoding="utf-8")
    with pytest.raises(BadInput, match="web page"):
        load_weights(tmp_path / "w.safetensors")


def test_17_other_files_are_told(model, tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load_weights(tmp_path / "absent.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(BadInput, match="empty"):
        load_weights(tmp_path / "empty.pt")
    (tmp_path / "w.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(BadInput, match=r"\.safetensors, \.pt or \.pth files, not \.onnx"):
        load_weights(tmp_path / "w.onnx")
    (tmp_path / "noise.pt").write_bytes(bytes(range(50, 250)))
    with pytest.raises(BadInput):
        load_weights(tmp_path / "noise.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0" + b"not json at all." + b"0" * 99)
    with pytest.raises(BadInput, match="not a safetensors file"):
        load_weights(tmp_path / "noise.safetensors")
    torch.save(state_of(model), tmp_path / "disguised.safetensors")
    with pytest.raises(BadInput, match=r"torch file with a \.safetensors name"):
        load_weights(tmp_path / "disguised.safetensors")


def test_17_an_archive_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(BadInput, match="more than twice its size"):
        load_weights(tmp_path / "bomb.pt")


def test_18_a_module_prefix_of_every_name_is_dropped_and_noted(model):
    other = DigitsNet().build(10, SHAPE)
    notes = load_into(other, {f"module.{name}": tensor for name, tensor in state_of(model).items()}, "weights.pt")
    assert notes == ["weights.pt: dropped the prefix 'module.' of every name"]
    assert torch.equal(other.fc.weight, model.fc.weight)
    compiled = {f"module._orig_mod.{name}": tensor for name, tensor in state_of(model).items()}
    assert len(load_into(other, compiled, "weights.pt")) == 2


def test_18_a_prefix_of_some_names_is_not_dropped(model):
    state = {(f"module.{name}" if "fc" in name else name): t for name, t in state_of(model).items()}
    with pytest.raises(BadInput, match=r"2 of 38 names have a wrapper's prefix"):
        load_into(model, state, "w")


def test_18_a_model_whose_own_names_start_so_keeps_them():
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert load_into(model, state_of(model), "w") == []


def test_18_missing_and_extra_names_are_listed_and_nothing_is_loaded(model):
    state = state_of(model)
    del state["fc.bias"]
    del state["bn1.running_mean"]
    state["conv1.weight"] = torch.zeros_like(state["conv1.weight"])
    state["head.bias"] = torch.zeros(10)
    before = state_of(model)
    with pytest.raises(BadInput) as caught:
        load_into(model, state, "mine.safetensors")
    text = str(caught.value)
    assert "mine.safetensors" in text
    assert "missing (2): bn1.running_mean, fc.bias" in text
    assert "unexpected (1): head.bias" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_18_a_head_for_other_classes_is_explained(model):
    state = state_of(DigitsNet().build(100, SHAPE))
    with pytest.raises(BadInput, match=r"the head fc\.weight is for 100 classes, and the data has 10") as caught:
        load_into(model, state, "w")
    assert "fc.bias is (100,), the model's (10,)" in str(caught.value)


def test_18_a_long_list_is_cut(model):
    with pytest.raises(BadInput, match=r"missing \(38\): .* and 30 more"):
        load_into(model, {}, "w")


def test_18_another_type_is_converted_and_noted(model):
    half = {name: t.half() if t.is_floating_point() else t for name, t in state_of(model).items()}
    assert load_into(model, half, "w") == ["w: converted torch.float16 to torch.float32"]
    assert model.fc.weight.dtype == torch.float32


def test_18_weights_beside_an_epoch_are_taken_with_a_warning(model, tmp_path):
    torch.save({"epoch": 3, "state_dict": state_of(model)}, tmp_path / "w.pt")
    with pytest.warns(TailkeepWarning, match=r"taking 'state_dict', ignoring \['epoch'\]"):
        state = load_weights(tmp_path / "w.pt")
    assert state.keys() == model.state_dict().keys()


def test_18_what_is_not_a_tensor_is_named(model, tmp_path):
    torch.save({**state_of(model), "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(BadInput, match=r"tensors alone; this one also has 'epoch' \(int\)"):
        load_weights(tmp_path / "w.pt")
    torch.save(torch.zeros(3), tmp_path / "t.pt")
    with pytest.raises(BadInput, match="holds a Tensor, not a state dict"):
        load_weights(tmp_path / "t.pt")
    torch.save({}, tmp_path / "none.pt")
    with pytest.raises(BadInput, match="no tensors"):
        load_weights(tmp_path / "none.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_19_values_that_are_not_finite_are_refused_by_name(model, tmp_path, value, name):
    state = state_of(model)
    state["layer1.1.bn2.running_var"][3] = value
    with pytest.raises(BadInput, match=r"tensor layer1\.1\.bn2\.running_var holds 1 values that are NaN or infinite"):
        load_weights(save(state, tmp_path / name))
