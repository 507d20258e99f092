"""The fake-quantizer as a torchao class, and grids read from torchao's specs."""

import copy
from typing import Any

import pytest
import torch

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.quantization.grid import Bounds, IntGrid
from srptq_plugin.quantization.quantizer import Mode

pytest.importorskip("torchao")

from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from srptq_adapters.torchao.fake_quantize_class import TorchaoFakeQuantize, constructor, read_grid, to_qscheme

TENSOR, CHANNEL = torch.per_tensor_affine, torch.per_channel_symmetric
SPECS = [
    ((torch.uint8, None, None, TENSOR), IntGrid(8)),
    ((torch.uint8, 0, 255, TENSOR), IntGrid(8)),
    ((torch.uint8, 0, 127, TENSOR), IntGrid(7)),
    ((torch.int8, -128, 127, TENSOR), IntGrid(8, signed=True)),
    ((torch.int8, -127, 127, torch.per_tensor_symmetric), IntGrid(8, signed=True, symmetric=True, narrow_range=True)),
    ((torch.int8, -128, 127, CHANNEL), IntGrid(8, signed=True, symmetric=True, channel_axis=0)),
    ((torch.int8, -7, 7, CHANNEL), IntGrid(4, signed=True, symmetric=True, narrow_range=True, channel_axis=0)),
    ((torch.int16, None, None, torch.per_tensor_symmetric), IntGrid(16, signed=True, symmetric=True)),
]


def spec(dtype: torch.dtype, low: int | None, high: int | None, scheme: Any) -> QuantizationSpec:
    build: Any = constructor(torch.nn.Identity)
    return QuantizationSpec(
        dtype=dtype,
        observer_or_fake_quant_ctr=build,
        quant_min=low,
        quant_max=high,
        qscheme=scheme,
        ch_axis=0 if scheme == CHANNEL else None,
    )


@pytest.mark.parametrize(("arguments", "grid"), SPECS)
def test_grid_is_read_from_a_spec(arguments: tuple[Any, Any, Any, Any], grid: IntGrid) -> None:
    actual = read_grid(spec(*arguments))
    assert actual == grid
    if arguments[1] is not None:
        assert (actual.qmin, actual.qmax) == arguments[1:3]


@pytest.mark.parametrize(("low", "high"), [(0, 100), (3, 255), (-100, 127)])
def test_range_of_no_grid_is_refused(low: int, high: int) -> None:
    dtype = torch.int8 if low < 0 else torch.uint8
    with pytest.raises(SrptqError, match=rf"integers {low}\.\.{high} are no grid"):
        read_grid(spec(dtype, low, high, TENSOR))


@pytest.mark.parametrize(("arguments", "grid"), SPECS)
def test_attributes_equal_the_spec_of_torchao(arguments: tuple[Any, Any, Any, Any], grid: IntGrid) -> None:
    quantizer = TorchaoFakeQuantize("a", grid)
    assert isinstance(quantizer, FakeQuantizeBase)
    assert quantizer.qscheme == arguments[3] == to_qscheme(grid)
    assert (quantizer.quant_min, quantizer.quant_max) == (grid.qmin, grid.qmax)
    assert quantizer.ch_axis == (-1 if grid.channel_axis is None else grid.channel_axis)
    assert torch.iinfo(quantizer.dtype).min <= grid.qmin
    assert torch.iinfo(quantizer.dtype).max >= grid.qmax


def test_torchao_gets_the_projected_parameters() -> None:
    quantizer = TorchaoFakeQuantize("a", IntGrid(8), bounds=Bounds.of(-0.5, 1.0))
    scale, zero_point = quantizer.calculate_qparams()
    assert scale.item() == pytest.approx(1.5 / 255)
    assert zero_point.item() == 85
    assert zero_point.dtype == torch.int32
    assert not scale.requires_grad


def test_paper_grid_is_refused_for_torchao() -> None:
    quantizer = TorchaoFakeQuantize("a", IntGrid(4, float_zero_point=True), bounds=Bounds.of(0.5, 1.0))
    with pytest.raises(SrptqError, match="no integer grid"):
        quantizer.calculate_qparams()


def test_torchao_switches_set_each_mode() -> None:
    quantizer = TorchaoFakeQuantize("a", IntGrid(8), MinMaxObserver(IntGrid(8)))
    quantizer(torch.tensor([-1.0, 1.0]))
    assert quantizer.mode is Mode.OBSERVE
    quantizer.disable_observer()
    assert quantizer.mode is Mode.QUANTIZE
    assert quantizer.upper.item() == pytest.approx(1.0, abs=0.01)
    quantizer.disable_fake_quant()
    assert quantizer.mode is Mode.OFF
    quantizer.enable_fake_quant()
    assert quantizer.mode is Mode.QUANTIZE
    quantizer.enable_observer()
    assert quantizer.mode is Mode.OBSERVE


def test_constructor_can_be_copied() -> None:
    make = constructor(lambda: TorchaoFakeQuantize("a", IntGrid(8)))
    copied: Any = copy.deepcopy(make)
    assert copied() is not make()
    assert isinstance(copied.with_args(eps=1e-5)(), TorchaoFakeQuantize)


def test_copies_learn_independently() -> None:
    quantizer = TorchaoFakeQuantize("a", IntGrid(8), MinMaxObserver(IntGrid(8)), Bounds.of(-1.0, 1.0))
    twin = copy.deepcopy(quantizer)
    twin.upper.data *= 2
    assert quantizer.upper.item() == pytest.approx(1.0, abs=0.01)
