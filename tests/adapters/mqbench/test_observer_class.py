"""The core's observers in MQBench: the bounds of the core, and scale and zero point by `project`."""

import copy
from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
import torch
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.observer import ObserverBase  # pyright: ignore[reportMissingImports]
from torch import Tensor

from srptq_adapters.mqbench.grids import observer_arguments, read_grid
from srptq_adapters.mqbench.observer_class import SRObserver, observer_class
from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.dbdc import DBDCObserver
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, IntGrid, project

ENTRIES = {entry.name: entry for entry in Registry().entries("observer")}
KINDS = {
    "asymmetric": IntGrid(8),
    "signed": IntGrid(8, signed=True),
    "symmetric": IntGrid(8, signed=True, symmetric=True),
    "narrow": IntGrid(8, signed=True, symmetric=True, narrow_range=True),
    "power of two": IntGrid(8, signed=True, symmetric=True, power_of_two=True),
    "asymmetric power of two": IntGrid(8, power_of_two=True),
}
GRID = IntGrid(4, channel_axis=0)
SHORT = {name: {"steps": 20} for name in ("mse", "entropy")}
"""Options that shorten slow searches."""


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([1.0, 0.2, 5.0])[:, None, None]
    return [torch.randn(3, 4, 50, generator=generator) * scales + 0.1 * number for number in range(count)]


def build(name: str, grid: IntGrid, **options: Any) -> SRObserver:
    return observer_class(name, ENTRIES[name].load())(**observer_arguments(grid), **options)


def observed(observer: Any, images: list[Tensor]) -> Any:
    for image in images:
        observer(image)
    return observer


def same(one: Any, other: Any) -> bool:
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENTRIES)
def test_bounds_and_projection_equal_those_of_the_core(name: str, kind: str) -> None:
    for bits, axis in zip(range(2, 9), cycle((None, 0, 1)), strict=False):
        grid = replace(KINDS[kind], bits=bits, channel_axis=axis)
        options = SHORT.get(name, {})
        core = ENTRIES[name].load()(grid, **options)
        for batch in batches():
            core.update(batch)
        observer = observed(build(name, grid, **options), batches())
        assert observer.grid == read_grid(observer) == grid
        bounds = core.bounds()
        assert same((observer.min_val, observer.max_val), (bounds.lower, bounds.upper)), bits
        expected = project(bounds, grid)
        scale, zero_point = observer.calculate_qparams()
        assert same((scale, zero_point), (expected.scale.reshape(-1), expected.integer_zero_point.reshape(-1))), bits


@pytest.mark.parametrize("grid", [IntGrid(8), GRID])
@pytest.mark.parametrize("name", ENTRIES)
def test_new_observer_loads_a_state_dict(name: str, grid: IntGrid) -> None:
    observer = observed(build(name, grid), batches())
    fresh = build(name, grid)
    fresh.load_state_dict(observer.state_dict())
    assert same(fresh.calculate_qparams(), observer.calculate_qparams())
    assert fresh.min_val.dtype == observer.min_val.dtype == torch.float64


@pytest.mark.parametrize("name", ENTRIES)
def test_copies_observe_independently(name: str) -> None:
    first, second, _ = batches()
    observer = observed(build(name, GRID), [first])
    before = observer.calculate_qparams()
    twin = observed(copy.deepcopy(observer), [100 * second])
    assert same(observer.calculate_qparams(), before)
    assert not same(twin.calculate_qparams(), before)
    assert same(observed(observer, [100 * second]).calculate_qparams(), twin.calculate_qparams())


@pytest.mark.usefixtures("active")
def test_tables_have_every_observer_by_name() -> None:
    names = {name: platform.ObserverDict[f"srptq.{name}" if name != "dbdc" else name] for name in ENTRIES}
    assert all(issubclass(kind, SRObserver) and issubclass(kind, ObserverBase) for kind in names.values())
    assert platform.ObserverDict["DBDCObserver"] is names["dbdc"]
    assert {name: kind.title for name, kind in names.items()} == {name: name for name in ENTRIES}


def test_minmax_agrees_with_the_stock_observer() -> None:
    stock = platform.ObserverDict["MinMaxObserver"](**observer_arguments(GRID))
    observer = build("minmax", GRID)
    for candidate in (stock, observer):
        observed(candidate, batches())
    assert same((stock.min_val.double(), stock.max_val.double()), (observer.min_val, observer.max_val))
    torch.testing.assert_close(stock.calculate_qparams()[0], observer.calculate_qparams()[0])


def test_written_bounds_take_effect() -> None:
    observer = observed(build("dbdc", IntGrid(8)), batches())
    observer.min_val.data.fill_(-1.0)
    observer.max_val.data.fill_(3.0)
    assert observer.calculate_qparams()[0].item() == project(Bounds.of(-1.0, 3.0), IntGrid(8)).scale.item()


def test_observing_returns_the_values() -> None:
    (values,) = batches(1)
    assert torch.equal(build("dbdc", GRID)(values), values)


def test_options_reach_the_core() -> None:
    observer = build("dbdc", GRID, ratio=0.01, bins=32)
    assert isinstance(observer.observer, DBDCObserver)
    assert (observer.observer.ratios, observer.observer.bins) == ((0.01,), 32)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "dbdc",
            {"bin": 3},
            r"observer dbdc: options\.bin: unknown key; did you mean 'bins'\? keys: average, bins, momentum",
        ),
        ("dbdc", {"bins": -1}, r"observer dbdc: options\.bins: -1 is not allowed; give a whole number from 1"),
        ("minmax", {"ratio": 3}, r"observer minmax: options\.ratio: unknown key; there are none here$"),
    ],
)
def test_wrong_option_is_refused_with_the_known_ones(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        build(name, GRID, **options)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ENTRIES)
def test_nan_and_infinity_are_refused(name: str, bad: float) -> None:
    values = batches(1)[0]
    values[0, 1, 2] = bad
    with pytest.raises(SrptqError, match="NaN or infinity"):
        build(name, IntGrid(8))(values)


def test_integers_of_no_grid_are_refused() -> None:
    arguments: dict[str, Any] = {**observer_arguments(IntGrid(8)), "quant_max": 100}
    with pytest.raises(SrptqError, match=r"integers 0\.\.100 are no grid"):
        observer_class("minmax", MinMaxObserver)(**arguments)
