"""MQBench realizes the core's plan with the same sites, the same bits and the same table."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from helpers import networks
from mqbench import prepare_by_platform as platform  # pyright: ignore[reportAttributeAccessIssue]
from mqbench.utils.logger import logger  # pyright: ignore[reportMissingImports]
from mqbench.utils.registry import DEFAULT_MODEL_QUANTIZER  # pyright: ignore[reportMissingImports]
from torch.ao.nn import qat

from srptq_adapters.mqbench.mqbench_toolkit import MqbenchToolkit
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.hosts import Host
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.reconstruction.compensation import compensate
from srptq_plugin.reconstruction.pac import reconstruct

if TYPE_CHECKING:
    from srptq_plugin.plugins.protocols import Toolkit

CASES = [
    ("edsr", 8, "openvino"),
    ("edsr", 4, "paper"),
    ("mixed", 4, "onnxruntime"),
    ("imdn", 8, "onnxruntime"),
    ("esrgan", 4, "openvino"),
    ("shared", 8, "openvino"),
    ("scaled", 4, "onnxruntime"),
    ("bicubic", 8, "onnxruntime"),
    ("espcn", 8, "onnxruntime"),
    ("rdn", 8, "tensorrt"),
    ("rrdb", 8, "snpe"),
    ("tokens", 8, "onnxruntime"),
]
BATCHES = [networks.images(seed=seed) for seed in (1, 2)]


@dataclass
class Both:
    """A plan, realized by the core alone and by MQBench."""

    kind: str
    plan: Plan
    core: PreparedGraph
    mqbench: PreparedGraph


def plan_for(kind: str, bits: int, target: str) -> Plan:
    return networks.plan(kind, networks.recipe(bits, target, activations={"observer": "dbdc"}))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def both(request: pytest.FixtureRequest) -> Both:
    kind, bits, target = request.param
    plan = plan_for(kind, bits, target)
    core = networks.realize(kind, plan)
    mqbench = MqbenchToolkit().realize(networks.exported(kind), plan)
    for prepared in (core, mqbench):
        prepared.observe(BATCHES)
        reconstruct(prepared, networks.images(4, seed=3), epochs=1, schedule="joint", activation_rate=1e-2)
    return Both(kind, plan, core, mqbench)


def test_both_tune_equal_bounds_at_equal_sites(both: Both) -> None:
    assert both.core.qparams().keys() == both.mqbench.qparams().keys()
    for name, quantizer in both.core.quantizers.items():
        other = both.mqbench.quantizers[name]
        assert torch.equal(quantizer.lower, other.lower), name
        assert torch.equal(quantizer.upper, other.upper), name


@pytest.mark.parametrize("size", [(2, 12, 14), (1, 17, 9)])
def test_both_draw_the_same_bits(both: Both, size: tuple[int, int, int]) -> None:
    image = networks.images(*size)
    assert torch.equal(both.core(image), both.mqbench(image))
    one, other = (prepared.float_forward(image) for prepared in (both.core, both.mqbench))
    assert torch.equal(one[0], other[0])
    assert all(map(torch.equal, one[1], other[1]))


def test_both_make_the_same_table(both: Both) -> None:
    first, second = (QuantTable.of(prepared) for prepared in (both.core, both.mqbench))
    assert first.plan.sites == second.plan.sites
    for name, qparams in first.qparams.items():
        assert qparams.grid == second.qparams[name].grid
        assert torch.equal(qparams.scale, second.qparams[name].scale), name
        assert torch.equal(qparams.zero_point, second.qparams[name].zero_point), name
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(integers, second.weights[name]) for name, integers in first.weights.items())


def test_prepared_graph_consists_of_mqbench_modules(both: Both) -> None:
    layers = [module for module in both.mqbench.module.modules() if isinstance(module, qat.Conv2d)]
    calls = [node for node in both.mqbench.module.graph.nodes if str(node.target).endswith("_post_act_fake_quantizer")]
    assert layers
    assert calls
    assert all(isinstance(layer.weight_fake_quant, SRFakeQuantize) for layer in layers)
    wrappers = [module for module in both.mqbench.module.modules() if isinstance(module, SRFakeQuantize)]
    assert {id(wrapper.core) for wrapper in wrappers} == {id(core) for core in both.mqbench.quantizers.values()}


def test_realizing_changes_nothing_global(capsys: pytest.CaptureFixture[str]) -> None:
    before = (dict(DEFAULT_MODEL_QUANTIZER), dict(platform.ObserverDict), logger.level)
    plan = plan_for("edsr", 8, "openvino")
    prepared = MqbenchToolkit().realize(networks.exported("edsr"), plan)
    assert (dict(DEFAULT_MODEL_QUANTIZER), dict(platform.ObserverDict), logger.level) == before
    assert all(quantizer.mode is Mode.OBSERVE for quantizer in prepared.quantizers.values())
    assert not capsys.readouterr().out


def test_failed_realizing_leaves_nothing_behind() -> None:
    before = (dict(DEFAULT_MODEL_QUANTIZER), logger.level)
    broken: Any = SimpleNamespace(sites=(), groups={"a": ()})
    with pytest.raises((AttributeError, IndexError)):
        MqbenchToolkit().realize(networks.exported("edsr"), broken)
    assert (dict(DEFAULT_MODEL_QUANTIZER), logger.level) == before


def test_network_can_be_realized_again() -> None:
    plan = plan_for("imdn", 8, "openvino")
    drawn: list[torch.Tensor] = []
    for _ in range(2):
        prepared = MqbenchToolkit().realize(networks.exported("imdn"), plan)
        prepared.observe(BATCHES)
        drawn.append(prepared(BATCHES[0]))
    assert torch.equal(*drawn)


def test_realizing_works_while_active(active: object) -> None:
    assert active
    plan = plan_for("edsr", 8, "openvino")
    prepared, core = MqbenchToolkit().realize(networks.exported("edsr"), plan), networks.realize("edsr", plan)
    for graph in (prepared, core):
        graph.observe(BATCHES)
    assert torch.equal(prepared(BATCHES[0]), core(BATCHES[0]))


def test_toolkit_is_a_host_with_a_version() -> None:
    host = Registry().toolkit("mqbench").load()
    assert isinstance(host, MqbenchToolkit)
    assert isinstance(host, Host)
    toolkit: Toolkit = host
    assert toolkit.version[0].isdigit()


def test_both_compensate_rounding_alike(both: Both) -> None:
    """Compare rounding compensation. This comes last, as it changes the weights."""
    images = networks.images(4, seed=3)
    assert compensate(both.core, images) == compensate(both.mqbench, images) >= 0
    test_both_make_the_same_table(both)
