"""The bounded fake-quantizer: its modes, freezing, saved states and refusals."""

import pytest
import torch
from helpers.fake_quantizers import ACTIVATION, GRIDS, WEIGHT, ends_of, quantizing, sample

from srptq_plugin.errors import SrptqError
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode, fake_quantize


def test_off_and_observing_pass_values_on() -> None:
    quantizer = BoundedFakeQuantize("a/site", ACTIVATION, MinMaxObserver(ACTIVATION))
    values = sample()
    assert quantizer.mode is Mode.OBSERVE
    assert quantizer(values) is values
    quantizer.set_mode(Mode.OFF)
    assert quantizer(values * 100) is not values
    quantizer.set_mode(Mode.QUANTIZE)
    expected = project(Bounds.of(values.min(), values.max()), ACTIVATION)
    assert torch.equal(quantizer.qparams().scale, expected.scale)
    assert torch.equal(quantizer(values), fake_quantize(values, expected))
    assert quantizer.lower.requires_grad
    assert "a/site" in repr(quantizer)


def test_limits_hold_for_the_observer_alone() -> None:
    quantizer = BoundedFakeQuantize("a/site", ACTIVATION, MinMaxObserver(ACTIVATION))
    quantizer.limits = (None, 2.0)
    values = torch.tensor([-5.0, 1.0, 9.0])
    assert torch.equal(quantizer(values), values)
    quantizer.set_mode(Mode.QUANTIZE)
    assert quantizer.observed is not None
    assert quantizer.observed.outermost == (-5.0, 2.0)
    quantizer.set_bounds(Bounds.of(-5.0, 9.0))
    assert quantizer(values)[2].item() == pytest.approx(9.0, abs=0.5)


def test_finishing_takes_over_all_batches() -> None:
    quantizer = BoundedFakeQuantize("a/site", ACTIVATION, MinMaxObserver(ACTIVATION))
    quantizer(torch.tensor([0.0, 1.0]))
    quantizer.finish_observing()
    assert quantizer.bounds.upper.item() == pytest.approx(1.0)
    quantizer(torch.tensor([0.0, 3.0]))
    quantizer.set_mode(Mode.QUANTIZE)
    assert quantizer.bounds.upper.item() == pytest.approx(3.0)


def test_bounds_do_not_finish_observing() -> None:
    quantizer = BoundedFakeQuantize("a/site", ACTIVATION, MinMaxObserver(ACTIVATION))
    assert not quantizer.has_bounds
    with pytest.raises(SrptqError, match="site a/site: no bounds yet; run calibration images"):
        _ = quantizer.bounds
    quantizer(torch.tensor([0.0, 1.0]))
    assert (quantizer.has_bounds, quantizer.has_pending) == (False, True)
    for read in (lambda: quantizer.bounds, quantizer.qparams):
        with pytest.raises(SrptqError, match=r"site a/site: .*finish_observing\(\)"):
            read()
    assert quantizer.observed is None
    quantizer.finish_observing()
    assert (quantizer.has_bounds, quantizer.has_pending) == (True, False)


def test_tuned_bounds_survive_a_switch() -> None:
    quantizer = BoundedFakeQuantize("a/site", ACTIVATION, MinMaxObserver(ACTIVATION))
    quantizer(torch.tensor([0.0, 1.0]))
    quantizer.set_mode(Mode.QUANTIZE)
    quantizer.upper.data.fill_(0.5)
    quantizer.set_mode(Mode.OFF)
    quantizer.set_mode(Mode.QUANTIZE)
    assert quantizer.upper.item() == 0.5


def test_a_constant_tensor_is_observed_once() -> None:
    quantizer = BoundedFakeQuantize("a.weight", WEIGHT, MinMaxObserver(WEIGHT), constant=True)
    for factor in (1.0, 2.0):
        quantizer(factor * sample())
    quantizer.finish_observing()
    observer = MinMaxObserver(WEIGHT)
    observer.update(sample())
    assert torch.equal(quantizer.qparams().scale, project(observer.bounds(), WEIGHT).scale)


def test_bounds_without_an_observer_are_fixed() -> None:
    quantizer = BoundedFakeQuantize("image", IntGrid(8), bounds=Bounds.of(0.0, 1.0))
    quantizer(torch.tensor([5.0]))
    quantizer.set_mode(Mode.QUANTIZE)
    assert (quantizer.lower.item(), quantizer.upper.item()) == pytest.approx((0.0, 1.0))
    assert not quantizer.lower.requires_grad
    assert quantizer(torch.tensor([5.0])).item() == pytest.approx(1.0)


def test_frozen_parameters_outlive_a_change_of_bounds() -> None:
    quantizer = quantizing(ACTIVATION, Bounds.of(-1.0, 1.0))
    values = sample()
    before = quantizer(values).detach()
    quantizer.freeze()
    assert torch.equal(quantizer(values), before)
    quantizer.upper.data *= 2
    assert torch.equal(quantizer(values), before)
    moved = values.clone().requires_grad_()
    assert quantizer(moved).requires_grad
    quantizer.unfreeze()
    assert not torch.equal(quantizer(values), before)


def test_a_frozen_constant_is_cached() -> None:
    quantizer = quantizing(WEIGHT, ends_of(WEIGHT, -1.0, 1.0), constant=True)
    weight = torch.nn.Parameter(sample())
    quantizer.freeze()
    first = quantizer(weight)
    assert quantizer(weight) is first
    assert not first.requires_grad
    quantizer.set_mode(Mode.QUANTIZE)
    assert quantizer(weight) is not first


@pytest.mark.parametrize("grid", [ACTIVATION, WEIGHT])
def test_a_saved_state_loads_into_a_fresh_quantizer(grid: IntGrid) -> None:
    saved = quantizing(grid, ends_of(grid, -0.3, 1.1))
    fresh = BoundedFakeQuantize("a/site", grid, MinMaxObserver(grid))
    fresh.load_state_dict(saved.state_dict())
    fresh.set_mode(Mode.QUANTIZE)
    assert torch.equal(fresh.lower, saved.lower)
    assert torch.equal(fresh.upper, saved.upper)
    assert fresh.lower.requires_grad
    assert torch.equal(fresh(sample()), saved(sample()))


def test_a_loaded_state_wins_over_pending_batches() -> None:
    saved = quantizing(ACTIVATION, Bounds.of(-0.3, 1.1))
    other = BoundedFakeQuantize("a/site", ACTIVATION, MinMaxObserver(ACTIVATION))
    other(torch.tensor([-50.0, 50.0]))
    other.load_state_dict(saved.state_dict())
    other.set_mode(Mode.QUANTIZE)
    assert torch.equal(other.upper, saved.upper)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_name_site_and_batch(bad: float) -> None:
    quantizer = BoundedFakeQuantize("body.3/conv", ACTIVATION, MinMaxObserver(ACTIVATION))
    quantizer(sample())
    with pytest.raises(SrptqError, match=r"site body\.3/conv: batch 2: NaN or infinity"):
        quantizer(torch.tensor([0.0, bad]))


def test_quantizing_before_calibrating_names_the_site() -> None:
    quantizer = BoundedFakeQuantize("body.3/conv", ACTIVATION, MinMaxObserver(ACTIVATION))
    quantizer.set_mode(Mode.QUANTIZE)
    with pytest.raises(SrptqError, match=r"site body\.3/conv: no bounds yet"):
        quantizer(sample())


def test_crossed_bounds_give_a_valid_grid() -> None:
    for grid in GRIDS:
        quantizer = quantizing(grid, ends_of(grid, -1.0, 1.0))
        quantizer.lower.data, quantizer.upper.data = quantizer.upper.data + 0.5, quantizer.lower.data - 0.5
        qparams = quantizer.qparams()
        assert (qparams.scale > 0).all()
        assert quantizer(sample()).isfinite().all()
