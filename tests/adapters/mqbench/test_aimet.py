"""AIMET reads what MQBench deploys for SNPE while we are active, and computes what torch computes."""

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
    """How near AIMET's simulation of a deployed network is to the model that was deployed."""

    def run(kind: str, **qconfig: Any) -> float:
        model = calibrated(kind, "SNPE", a_qscheme=AFFINE, **qconfig)
        with torch.no_grad():
            wanted = model(IMAGES).numpy()
        shape = {"x": list(IMAGES.shape)}
        deploying.convert_deploy(model, platform.BackendType.SNPE, shape, output_path=str(tmp_path), model_name="m")
        files = (tmp_path / "m_deploy_model.onnx", tmp_path / "m_clip_ranges.json")
        found = aimet.simulated(*files, IMAGES.numpy(), wanted)
        assert found["version"] == "0.6.1"
        return aimet.decibels(found)

    return run


@pytest.mark.parametrize("case", EXACT)
def test_bounded_by_channel_aimet_draws_what_torch_draws(case: str, simulated: Callable[..., float]) -> None:
    assert simulated("edsr", w_qscheme=EXACT[case]) > 120


def test_with_mqbenchs_defaults_it_does_but_for_ties(simulated: Callable[..., float]) -> None:
    assert simulated("edsr", **LEARNABLE, w_observer="MinMaxObserver", w_qscheme=AFFINE) > 60


def test_a_concats_inputs_which_aimet_reads_at_its_outputs_scale_differ_slightly(
    simulated: Callable[..., float],
) -> None:
    assert 50 < simulated("imdn", w_qscheme=CHANNEL) < 120
