from collections import OrderedDict
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import load_into, load_state

TENSORS = {"weight": torch.arange(3.0), "count": torch.tensor(7)}


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def check_equal(state: dict[str, Tensor]) -> None:
    assert state.keys() == TENSORS.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in TENSORS.items())


def test_missing_keys_are_allowed_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    layer = nn.Linear(2, 1)
    before = layer.bias.clone()
    load_into(layer, {"weight": torch.ones(1, 2), "scale": torch.ones(1)}, allow_missing=True)
    assert torch.equal(layer.weight, torch.ones(1, 2))
    assert torch.equal(layer.bias, before)
    assert "1 missing: bias; 1 unexpected: scale" in caplog.text


@pytest.mark.parametrize("state", [{"weight": torch.ones(3, 3)}, {"other": torch.ones(1)}])
def test_shapes_and_strangers_are_never_allowed(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(SrptqError, match="weights do not fit Linear"):
        load_into(nn.Linear(2, 1), state, allow_missing=True)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        OrderedDict(TENSORS),
        {"params_ema": TENSORS, "params": {"weight": torch.zeros(3)}},
        {"params": TENSORS},
        {"state_dict": TENSORS, "epoch": 3},
        {"model": {"state_dict": TENSORS}},
        {f"module.{key}": tensor for key, tensor in TENSORS.items()},
        {"net": TENSORS, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}, "epoch": 7},
        {"generator": {"state_dict": TENSORS}, "scheduler": {"base_lrs": [0.1]}},
        {"state_dict": {f"module._orig_mod.{key}": tensor for key, tensor in TENSORS.items()}},
    ],
)
def test_wrappers_and_prefixes_are_removed(tmp_path: Path, content: object) -> None:
    check_equal(load_state(saved(tmp_path / "a.pth", content)))


def test_several_state_dicts_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"generator": TENSORS, "discriminator": TENSORS, "epoch": 3})
    with pytest.raises(SrptqError, match=r"a\.pth holds several state dicts \(generator, discriminator\); re-save"):
        load_state(path)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    check_equal(load_state(str(tmp_path / "a.safetensors")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"weight": torch.ones(3, dtype=dtype)}, tmp_path / "a.safetensors")
    assert load_state(tmp_path / "a.safetensors")["weight"].dtype == torch.float32


def test_code_is_never_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"weight": torch.zeros(1), "payload": Touch(tmp_path / "touched")})
    with pytest.raises(SrptqError, match="re-save it as safetensors"):
        load_state(path)
    assert not (tmp_path / "touched").exists()


def test_whole_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match="state_dict"):
        load_state(saved(tmp_path / "a.pt", nn.Linear(1, 1)))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world, no weights", b"PK\x03\x04 cut off"])
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SrptqError, match=name):
        load_state(tmp_path / name)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SrptqError, match=r"no file .*none\.pth"):
        load_state(tmp_path / "none.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)], {}, {"state_dict": {}}, torch.zeros(3)])
def test_other_content_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(SrptqError, match="not a state dict"):
        load_state(saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "a.pth", {"good": torch.ones(2), "bad.bias": torch.tensor([0, value])})
    with pytest.raises(SrptqError, match=r"bad\.bias"):
        load_state(path)


def test_mismatches_are_listed() -> None:
    model = nn.Sequential(*(nn.Linear(2, 3) for _ in range(6)))
    state = {"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(3), "other": torch.zeros(1)}
    with pytest.raises(SrptqError) as caught:
        load_into(model, state)
    assert str(caught.value) == (
        "weights do not fit Sequential; 10 missing: 1.weight, 1.bias, 2.weight, 2.bias, 3.weight, 3.bias, "
        "4.weight, 4.bias, and 2 more; 1 unexpected: other; "
        "1 of another shape: 0.weight is [3, 4], should be [3, 2]"
    )


def test_batch_norms_need_no_counter() -> None:
    norm = nn.BatchNorm2d(2)
    state = {key: value + 1 for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
    load_into(norm, state)
    assert torch.equal(norm.weight, torch.full((2,), 2.0))


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.float64):
        torch.save({"a": torch.zeros(1, dtype=dtype).expand(10**7, 10**7)}, tmp_path / "a.pth")
        with pytest.raises(SrptqError, match=r"a in .*a\.pth has more values than the file has bytes"):
            load_state(tmp_path / "a.pth")


def test_compressed_files_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.pth")
    with ZipFile(tmp_path / "a.pth") as whole, ZipFile(tmp_path / "b.pth", "w", ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(SrptqError, match=r"b\.pth unpacks to more than its size; save it with torch\.save"):
        load_state(tmp_path / "b.pth")
