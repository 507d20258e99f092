"""The core's observers in MQBench's shape: the core's bounds, `project`'s scale and zero point."""

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
"""Searches, which take long."""


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([1.0, 0.2, 5.0])[:, None, None]
    return [torch.randn(3, 4, 50, generator=generator) * scales + 0.1 * number for number in range(count)]


def made(name: str, grid: IntGrid, **options: Any) -> SRObserver:
    return observer_class(name, ENTRIES[name].load())(**observer_arguments(grid), **options)


def seen(observer: Any, images: list[Tensor]) -> Any:
    for image in images:
        observer(image)
    return observer


def same(one: Any, other: Any) -> bool:
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENTRIES)
def test_it_has_the_cores_bounds_and_the_projections_parameters(name: str, kind: str) -> None:
    for bits, axis in zip(range(2, 9), cycle((None, 0, 1)), strict=False):
        grid = replace(KINDS[kind], bits=bits, channel_axis=axis)
        options = SHORT.get(name, {})
        core = ENTRIES[name].load()(grid, **options)
        for batch in batches():
            core.update(batch)
        ours = seen(made(name, grid, **options), batches())
        assert ours.grid == read_grid(ours) == grid
        bounds = core.bounds()
        assert same((ours.min_val, ours.max_val), (bounds.lower, bounds.upper)), bits
        wanted = project(bounds, grid)
        scale, zero_point = ours.calculate_qparams()
        assert same((scale, zero_point), (wanted.scale.reshape(-1), wanted.integer_zero_point.reshape(-1))), bits


@pytest.mark.parametrize("grid", [IntGrid(8), GRID])
@pytest.mark.parametrize("name", ENTRIES)
def test_a_fresh_one_takes_a_state_dict(name: str, grid: IntGrid) -> None:
    ours = seen(made(name, grid), batches())
    fresh = made(name, grid)
    fresh.load_state_dict(ours.state_dict())
    assert same(fresh.calculate_qparams(), ours.calculate_qparams())
    assert fresh.min_val.dtype == ours.min_val.dtype == torch.float64


@pytest.mark.parametrize("name", ENTRIES)
def test_a_copy_goes_on_by_itself(name: str) -> None:
    first, second, _ = batches()
    ours = seen(made(name, GRID), [first])
    before = ours.calculate_qparams()
    twin = seen(copy.deepcopy(ours), [100 * second])
    assert same(ours.calculate_qparams(), before)
    assert not same(twin.calculate_qparams(), before)
    assert same(seen(ours, [100 * second]).calculate_qparams(), twin.calculate_qparams())


@pytest.mark.usefixtures("active")
def test_the_tables_have_each_by_name() -> None:
    names = {name: platform.ObserverDict[f"srptq.{name}" if name != "dbdc" else name] for name in ENTRIES}
    assert all(issubclass(each, SRObserver) and issubclass(each, ObserverBase) for each in names.values())
    assert platform.ObserverDict["DBDCObserver"] is names["dbdc"]
    assert {name: each.title for name, each in names.items()} == {name: name for name in ENTRIES}


def test_stock_extremes_and_ours_agree() -> None:
    stock = platform.ObserverDict["MinMaxObserver"](**observer_arguments(GRID))
    ours = made("minmax", GRID)
    for each in (stock, ours):
        seen(each, batches())
    assert same((stock.min_val.double(), stock.max_val.double()), (ours.min_val, ours.max_val))
    torch.testing.assert_close(stock.calculate_qparams()[0], ours.calculate_qparams()[0])


def test_whoever_writes_the_bounds_is_obeyed() -> None:
    ours = seen(made("dbdc", IntGrid(8)), batches())
    ours.min_val.data.fill_(-1.0)
    ours.max_val.data.fill_(3.0)
    assert ours.calculate_qparams()[0].item() == project(Bounds.of(-1.0, 3.0), IntGrid(8)).scale.item()


def test_values_pass_through() -> None:
    (values,) = batches(1)
    assert torch.equal(made("dbdc", GRID)(values), values)


def test_options_reach_the_core() -> None:
    ours = made("dbdc", GRID, ratio=0.01, bins=32)
    assert isinstance(ours.observer, DBDCObserver)
    assert (ours.observer.ratios, ours.observer.bins) == ((0.01,), 32)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("dbdc", {"bin": 3}, r"observer dbdc: .*'bin'; options: ratio, bins, average, momentum$"),
        ("dbdc", {"bins": -1}, "observer dbdc: bins: -1; give 1 or more"),
        ("minmax", {"ratio": 3}, r"observer minmax: .*'ratio'; options: none$"),
    ],
)
def test_a_wrong_option_is_refused_with_those_there_are(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SrptqError, match=said):
        made(name, GRID, **options)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    values = batches(1)[0]
    values[0, 1, 2] = bad
    with pytest.raises(SrptqError, match="NaN or infinity"):
        made(name, IntGrid(8))(values)


def test_integers_that_are_no_grid_are_refused() -> None:
    arguments: dict[str, Any] = {**observer_arguments(IntGrid(8)), "quant_max": 100}
    with pytest.raises(SrptqError, match=r"integers 0\.\.100 are no grid"):
        observer_class("minmax", MinMaxObserver)(**arguments)
