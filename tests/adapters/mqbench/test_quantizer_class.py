"""The bounded fake-quantizer under MQBench: its switches, buffers, gradients, export and state."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mqbench.fake_quantize import FixedFakeQuantize  # pyright: ignore[reportMissingImports]
from mqbench.observer import MinMaxObserver  # pyright: ignore[reportMissingImports]
from mqbench.utils.state import (  # pyright: ignore[reportMissingImports]
    disable_all,
    enable_all,
    enable_calibration,
    enable_quantization,
)
from torch import Tensor, nn

from srptq_adapters.mqbench.grids import observer_arguments, to_bounds
from srptq_adapters.mqbench.observer_class import observer_class
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize, quantizer_class
from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import DBDCObserver
from srptq_plugin.observers.minmax import MinMaxObserver as CoreMinMax
from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode, fake_quantize

GRIDS = [
    IntGrid(4),
    IntGrid(8, signed=True),
    IntGrid(8, signed=True, symmetric=True),
    IntGrid(4, signed=True, symmetric=True, narrow_range=True, channel_axis=0),
    IntGrid(8, channel_axis=1),
    IntGrid(6, signed=True, symmetric=True, power_of_two=True),
    IntGrid(2, channel_axis=0, power_of_two=True),
]
OBSERVERS = {
    "stock": MinMaxObserver,
    "minmax": observer_class("minmax", CoreMinMax),
    "dbdc": observer_class("dbdc", DBDCObserver),
}
LEARNING = [IntGrid(4), IntGrid(4, signed=True, symmetric=True, channel_axis=0), IntGrid(8, channel_axis=1)]


def sample(seed: int = 0) -> Tensor:
    scales = torch.tensor([1.0, 0.25, 3.0])[:, None, None]
    return 0.3 + scales * torch.randn(3, 3, 40, generator=torch.Generator().manual_seed(seed))


def build(grid: IntGrid, observer: str = "minmax", **options: Any) -> SRFakeQuantize:
    return SRFakeQuantize(OBSERVERS[observer], **observer_arguments(grid), **options)


def calibrated(grid: IntGrid, observer: str = "minmax", **options: Any) -> SRFakeQuantize:
    quantizer = build(grid, observer, **options)
    enable_calibration(quantizer)
    for seed in range(2):
        quantizer(sample(seed))
    enable_quantization(quantizer)
    return quantizer


def step(quantizer: SRFakeQuantize) -> None:
    """Make one training step over all parameters, as an MQBench training script does."""
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.1)
    quantizer(sample(7)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def trace(quantizer: SRFakeQuantize) -> Any:
    """Trace a quantizer as a function. MQBench's modules have methods that TorchScript cannot compile."""

    def function(values: Tensor) -> Tensor:
        return quantizer(values)

    return torch.jit.trace(function, sample())  # pyright: ignore[reportPrivateImportUsage]


def assert_in_step(scale: Tensor, zero_point: Tensor, quantizer: SRFakeQuantize) -> None:
    expected = project(quantizer.core.bounds, quantizer.core.grid)
    assert torch.equal(scale, expected.scale.detach().reshape(-1))
    assert torch.equal(zero_point, expected.integer_zero_point.reshape(-1))


def test_mqbench_switches_set_each_mode() -> None:
    model = nn.Sequential(calibrated(IntGrid(8)))
    for switch, mode in (
        (enable_calibration, Mode.OBSERVE),
        (enable_quantization, Mode.QUANTIZE),
        (disable_all, Mode.OFF),
        (enable_quantization, Mode.QUANTIZE),
    ):
        switch(model)
        assert model[0].core.mode is mode


@pytest.mark.parametrize("switch", [enable_calibration, disable_all])
def test_values_pass_without_quantizing(switch: Callable[[nn.Module], None]) -> None:
    quantizer = calibrated(IntGrid(2))
    switch(quantizer)
    assert torch.equal(quantizer(sample()), sample())


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_forward_equals_the_arithmetic_of_the_core(grid: IntGrid, observer: str) -> None:
    quantizer = calibrated(grid, observer)
    scale, zero_point = quantizer.activation_post_process.calculate_qparams()
    qparams = project(to_bounds(scale, zero_point, grid), grid)
    assert torch.equal(quantizer(sample(3)).detach(), fake_quantize(sample(3), qparams))
    assert_in_step(quantizer.scale, quantizer.zero_point, quantizer)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_stock_observer_gives_stock_numbers(grid: IntGrid) -> None:
    ours, stock = calibrated(grid, "stock"), FixedFakeQuantize(MinMaxObserver, **observer_arguments(grid))
    enable_calibration(stock)
    for seed in range(2):
        stock(sample(seed))
    enable_quantization(stock)
    assert torch.equal(ours.scale, stock.scale.reshape(-1))
    assert torch.equal(ours.zero_point, stock.zero_point.reshape(-1))
    assert torch.equal(ours(sample(3)), stock(sample(3)))


def test_bounds_follow_every_batch_with_both_on() -> None:
    quantizer = build(IntGrid(4))
    enable_all(quantizer)
    for factor in (1.0, 10.0):
        values = factor * sample()
        output = quantizer(values).detach()
        qparams = project(Bounds.of(values.min(), values.max()), IntGrid(4))
        assert torch.equal(output, fake_quantize(values, qparams))
        assert len(output.unique()) > 4
    assert quantizer.calculate_qparams()[0].item() == qparams.scale.item()


def test_calibrating_again_widens_the_bounds() -> None:
    quantizer = calibrated(IntGrid(8))
    before = quantizer.scale.clone()
    enable_calibration(quantizer)
    quantizer(10 * sample())
    enable_quantization(quantizer)
    assert quantizer.scale > 5 * before


@pytest.mark.parametrize("grid", LEARNING, ids=str)
@pytest.mark.parametrize("gradient", ["full", "pact"])
def test_gradients_reach_both_bounds_and_the_values(gradient: str, grid: IntGrid) -> None:
    quantizer = calibrated(grid, gradient=gradient)
    quantizer.core.set_bounds(Bounds(0.5 * quantizer.core.lower, 0.5 * quantizer.core.upper))
    values = sample().requires_grad_()
    quantizer(values).square().sum().backward()
    for tensor in (quantizer.core.lower, quantizer.core.upper, values):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_bounds_are_the_only_parameters() -> None:
    assert [name for name, _ in calibrated(IntGrid(8)).named_parameters()] == ["core.lower", "core.upper"]


@pytest.mark.parametrize("grid", LEARNING, ids=str)
def test_training_moves_scale_and_zero_point(grid: IntGrid) -> None:
    quantizer = calibrated(grid)
    before = quantizer.scale.clone()
    for _ in range(3):
        step(quantizer)
    state = quantizer.state_dict()
    assert_in_step(state["scale"], state["zero_point"], quantizer)
    assert_in_step(*quantizer.calculate_qparams(), quantizer)
    assert not torch.equal(state["scale"], before)


@pytest.mark.parametrize("grid", LEARNING, ids=str)
def test_buffers_follow_each_forward_in_training(grid: IntGrid) -> None:
    quantizer = calibrated(grid)
    for _ in range(2):
        step(quantizer)
        quantizer(sample())
        assert_in_step(quantizer.scale, quantizer.zero_point, quantizer)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_traced_quantizer_equals_the_eager_one(grid: IntGrid) -> None:
    quantizer = calibrated(grid)
    step(quantizer)
    with torch.no_grad():
        traced = trace(quantizer)
        kind = (
            "aten::fake_quantize_per_tensor_affine"
            if grid.channel_axis is None
            else "aten::fake_quantize_per_channel_affine"
        )
        assert kind in str(traced.graph)
        for values in (sample(4), 100 * sample(5)):
            assert torch.equal(traced(values), quantizer(values))


def test_traced_quantizer_that_is_off_passes_values() -> None:
    quantizer = calibrated(IntGrid(4))
    disable_all(quantizer)
    assert torch.equal(trace(quantizer)(sample(4)), sample(4))


@pytest.mark.parametrize(
    ("grid", "observer"),
    [(grid, name) for grid in GRIDS for name in OBSERVERS if name != "stock" or grid.channel_axis is None],
)
def test_new_quantizer_loads_a_state_dict(grid: IntGrid, observer: str) -> None:
    assert_round_trip(grid, observer)


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.channel_axis is not None], ids=str)
def test_new_quantizer_with_stock_observer_loads_channels(grid: IntGrid) -> None:
    assert_round_trip(grid, "stock")


def assert_round_trip(grid: IntGrid, observer: str) -> None:
    quantizer = calibrated(grid, observer)
    step(quantizer)
    fresh = build(grid, observer)
    fresh.load_state_dict(quantizer.state_dict())
    enable_quantization(fresh)
    assert torch.equal(fresh(sample(4)), quantizer(sample(4)))
    assert all(map(torch.equal, fresh.calculate_qparams(), quantizer.calculate_qparams()))
    assert fresh.core.lower.requires_grad


def test_new_quantizer_trains_from_a_state_dict() -> None:
    quantizer, fresh = calibrated(IntGrid(4, channel_axis=0)), build(IntGrid(4, channel_axis=0))
    fresh.load_state_dict(quantizer.state_dict())
    enable_quantization(fresh)
    for candidate in (quantizer, fresh):
        step(candidate)
    assert torch.equal(fresh.core.upper, quantizer.core.upper)


def test_copies_learn_independently() -> None:
    quantizer = calibrated(IntGrid(4))
    before = quantizer(sample()).detach()
    twin = copy.deepcopy(quantizer)
    step(twin)
    assert torch.equal(quantizer(sample()), before)
    assert not torch.equal(twin(sample()), before)


def test_copies_observe_independently() -> None:
    quantizer = calibrated(IntGrid(4))
    twin = copy.deepcopy(quantizer)
    enable_calibration(twin)
    twin(10 * sample())
    enable_calibration(quantizer)
    enable_quantization(quantizer)
    enable_quantization(twin)
    assert twin.scale > 5 * quantizer.scale


def test_around_wraps_a_quantizer_of_a_plan() -> None:
    core = BoundedFakeQuantize("a", IntGrid(8), bounds=Bounds.of(-0.5, 1.0))
    quantizer = SRFakeQuantize.around(core)
    enable_quantization(quantizer)
    assert quantizer.core is core
    assert quantizer.scale.item() == pytest.approx(1.5 / 255)
    assert quantizer.zero_point.item() == 85
    assert (quantizer.quant_min, quantizer.quant_max) == (0, 255)


def test_quantizing_before_calibration_is_refused() -> None:
    quantizer = build(IntGrid(8))
    enable_quantization(quantizer)
    with pytest.raises(SrptqError, match="no bounds yet; run calibration images"):
        quantizer(sample())


def test_unknown_gradient_is_refused() -> None:
    with pytest.raises(SrptqError, match="gradient: 'lsq' is unknown; give full or pact"):
        build(IntGrid(8), gradient="lsq")


def test_class_wraps_the_quantizer_of_a_plugin() -> None:
    class Mine(BoundedFakeQuantize):
        pass

    kind = quantizer_class(Mine)
    assert kind.__name__ == "Mine"
    assert isinstance(kind(MinMaxObserver, **observer_arguments(IntGrid(8))).core, Mine)
