"""initialize(): a model of MQBench gets the gates of a run that DDTB trained."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import networks
from helpers.mqbench_starting import IMAGES, IN_THE_RUN, by_name, kinds
from helpers.photographs import pixels, save
from torch import fx

import srptq_plugin
from srptq_plugin.pipeline import quantize
from srptq_plugin.qat.train_run import train_run
from srptq_plugin.runs.run import Run

pytest.importorskip("torchao")
pytest.importorskip("onnxruntime")

Prepare = Callable[..., fx.GraphModule]


@pytest.fixture(scope="module")
def gated(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train DDTB with the toolkit torchao."""
    folder = tmp_path_factory.mktemp("gated")
    for n in range(3):
        save(pixels(24, 30, seed=n), folder / "low" / f"{n}.png")
    training = {"steps": 6, "every": 2, "batch": 2, "patch": 16, "value_rate": 0.0}
    recipe = networks.recipe(8, "paper", activations={"quantizer": "ddtb"}, training=training)
    start = quantize(
        networks.recipe(8, "paper", calibration=run.recipe.calibration.model_dump()),
        model=networks.network("edsr"),
        out=folder / "start",
        device="cpu",
    )
    return train_run(recipe, start.folder, images=folder / "low", out=folder / "trained", device="cpu")


def test_gates_are_restored_and_stay_in_training(
    gated: Run, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    model = prepare(a_fakequantize="srptq.ddtb")
    srptq_plugin.initialize(model, gated.folder)
    assert "has gates for" not in caplog.text
    named: dict[str, Any] = {IN_THE_RUN.get(name, name): placed.quantizer for name, placed in by_name(model).items()}
    with_gates = {group: state for group, state in gated.table.states.items() if "gate.narrow" in state}
    assert with_gates
    for group, state in with_gates.items():
        core = named[group].core
        assert all(torch.equal(core.state()[name], value) for name, value in state.items() if "gate" in name)
    before = [core for core in model.modules() if getattr(core, "gate", None) is not None]
    srptq_plugin.train(model, IMAGES, steps=2, every=2)
    assert [core for core in model.modules() if getattr(core, "gate", None) is not None] == before
    assert len(before) == len(with_gates)


@pytest.mark.parametrize("quantizer", ["Bounded", "Learnable"])
def test_quantizers_without_gates_are_named(
    quantizer: str, gated: Run, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    srptq_plugin.initialize(prepare(**kinds(quantizer)), gated.folder)
    assert "has gates for" in caplog.text
