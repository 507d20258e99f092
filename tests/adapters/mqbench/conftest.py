from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from helpers import networks
from torch import fx

import srptq_plugin
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.hosts import Change
from srptq_plugin.runs.run import Run

# The adapter comes first, as it makes MQBench importable.
_, mqbench, platform, switches = map(
    import_module, ("srptq_adapters.mqbench", "mqbench", "mqbench.prepare_by_platform", "mqbench.utils.state")
)

SCHEMES = {
    "w_qscheme": {"bit": 4, "symmetry": True, "per_channel": True, "pot_scale": False},
    "a_qscheme": {"bit": 4, "symmetry": False, "per_channel": False, "pot_scale": False},
}
OURS = {"w_observer": "srptq.minmax", "a_observer": "dbdc"} | dict.fromkeys(
    ("w_fakequantize", "a_fakequantize"), "BoundedFakeQuantize"
)
Prepare = Callable[..., fx.GraphModule]


@pytest.fixture
def real() -> None:
    if mqbench.__version__.endswith("+standin"):
        pytest.skip("needs the real MQBench")


@pytest.fixture
def active() -> Iterator[Sequence[Change]]:
    yield srptq_plugin.activate("mqbench")["mqbench"]
    srptq_plugin.deactivate("mqbench")


@pytest.fixture
def prepare(active: Sequence[Change]) -> Prepare:
    """Return a function that prepares a toy network as a plain MQBench script does."""
    assert active

    def run(kind: str = "edsr", backend: str = "Academic", *, trains: bool = False, **qconfig: Any) -> fx.GraphModule:
        config = {"extra_qconfig_dict": {**SCHEMES, **OURS, **qconfig}}
        backend_type = platform.BackendType[backend]
        return platform.prepare_by_platform(networks.network(kind).train(trains), backend_type, config).eval()

    return run


@pytest.fixture
def calibrated(prepare: Prepare) -> Prepare:
    """Return a function that prepares and calibrates a network, and lets it quantize."""

    def run(kind: str = "edsr", backend: str = "Academic", **qconfig: Any) -> fx.GraphModule:
        model = prepare(kind, backend, **qconfig)
        switches.enable_calibration(model)
        with torch.no_grad():
            for seed in (1, 2):
                model(networks.images(seed=seed))
        switches.enable_quantization(model)
        return model

    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run by the toolkit torchao."""
    recipe = networks.recipe(8, "onnxruntime", calibration={"patches": 4, "size": 16, "batch": 2})
    folder = tmp_path_factory.mktemp("runs") / "run"
    return quantize(recipe, model=networks.network("edsr"), out=folder, device="cpu", toolkit="torchao")
