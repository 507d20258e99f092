"""MQBench's patterns `layer` and `block` while we are active."""

from unittest.mock import Mock

import pytest
from helpers import networks
from helpers.mqbench_patterns import BATCHES, IMAGES, STOCK, Easy, Prepare, draw, tune
from mqbench import advanced_ptq  # pyright: ignore[reportAttributeAccessIssue]

import srptq_plugin
from srptq_plugin.errors import SrptqError


@pytest.mark.parametrize("pattern", ["layer", "block"])
def test_stock_patterns_reach_the_stock_function(
    pattern: str, calibrated: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    srptq_plugin.deactivate("mqbench")
    stock = Mock()
    monkeypatch.setattr(advanced_ptq, "ptq_reconstruction", stock)
    srptq_plugin.activate("mqbench")
    model, config = calibrated(w_fakequantize="AdaRoundFakeQuantize"), Easy(STOCK, pattern=pattern)
    tune(model, config)
    stock.assert_called_once_with(model, BATCHES, config, None)
    srptq_plugin.deactivate("mqbench")


@pytest.mark.parametrize("pattern", ["layer", "block"])
def test_stock_pattern_without_adaround_is_refused(pattern: str, calibrated: Prepare) -> None:
    with pytest.raises(SrptqError, match=r"weight_fake_quant: BoundedFakeQuantize does not learn rounding.*AdaRound"):
        tune(calibrated(), Easy(STOCK, pattern=pattern))


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("pattern", ["layer", "block"])
def test_stock_patterns_run_with_our_observer(pattern: str, calibrated: Prepare) -> None:
    model = calibrated(w_fakequantize="AdaRoundFakeQuantize", a_fakequantize="QDropFakeQuantize")
    exact = networks.network("edsr")(IMAGES)
    tuned = tune(model, Easy(STOCK, pattern=pattern))
    assert 0 < (draw(tuned) - exact).abs().mean() < 0.5 * exact.std()
