"""AIMET reads the files that MQBench deploys for SNPE while we are active, and computes the output of torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import aimet, networks
from mqbench import convert_deploy as deploying  # pyright: ignore[reportAttributeAccessIssue]
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from torch import fx

pytestmark = pytest.mark.usefixtures("real")

Prepare = Callable[..., fx.GraphModule]
IMAGES = networks.images(2, seed=5)
AFFINE = {"bit": 8, "symmetry": False, "per_channel": False, "pot_scale": False}
LEARNABLE = dict.fromkeys(("w_fakequantize", "a_fakequantize"), "LearnableFakeQuantize")
CHANNEL = AFFINE | {"symmetry": True, "per_channel": True}
EXACT: dict[str, dict[str, Any]] = {"full": CHANNEL, "narrow": CHANNEL | {"symmetric_range": True}}


@pytest.fixture
def simulated(calibrated: Prepare, tmp_path: Path) -> Callable[..., float]:
    """Return a function that deploys a network and gives the PSNR between its output and AIMET's simulation."""

    def run(kind: str, **qconfig: Any) -> float:
        model = calibrated(kind, "SNPE", a_qscheme=AFFINE, **qconfig)
        with torch.no_grad():
            expected = model(IMAGES).numpy()
        shape = {"x": list(IMAGES.shape)}
        deploying.convert_deploy(model, platform.BackendType.SNPE, shape, output_path=str(tmp_path), model_name="m")
        files = (tmp_path / "m_deploy_model.onnx", tmp_path / "m_clip_ranges.json")
        report = aimet.simulated(*files, IMAGES.numpy(), expected)
        assert report["version"] == "0.6.1"
        return aimet.decibels(report)

    return run


@pytest.mark.parametrize("case", EXACT)
def test_aimet_draws_the_output_of_torch_per_channel(case: str, simulated: Callable[..., float]) -> None:
    assert simulated("edsr", w_qscheme=EXACT[case]) > 120


def test_mqbench_defaults_differ_in_ties_only(simulated: Callable[..., float]) -> None:
    assert simulated("edsr", **LEARNABLE, w_observer="MinMaxObserver", w_qscheme=AFFINE) > 60


def test_concat_differs_as_aimet_uses_its_output_scale(
    simulated: Callable[..., float],
) -> None:
    assert 50 < simulated("imdn", w_qscheme=CHANNEL) < 120
