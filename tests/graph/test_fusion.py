"""Fusions and shared scales as a target lists them."""

from collections.abc import Collection
from dataclasses import replace

import pytest
import torch
from helpers import networks
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.graph.export import fold_and_trace, graph_of
from srptq_plugin.graph.fusion import Fusion, FusionMatcher
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.quantization.grid import IntGrid

FEATURES = networks.FEATURES
WEIGHT = IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
BITS = frozenset({8})
RULES = Rules(WEIGHT, IntGrid(8), BITS, BITS)
RESIDUAL = Fusion("add", behind="conv", through=frozenset({"scale", "add"}))


class Chain(nn.Module):
    """Convolutions with a clamp, a product with a constant (`scale`) or a product of two maps (`gate`) between them."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.between = between
        self.head, self.body, self.grow = networks.conv(3, FEATURES), networks.conv(FEATURES, FEATURES), self._grow()

    @staticmethod
    def _grow() -> nn.Module:
        return nn.Sequential(networks.conv(FEATURES, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        if self.between == "clamp":
            return self.grow(torch.clamp(self.body(torch.clamp(shallow, 0, 6)), 0, 6))
        if self.between == "scale":
            return self.grow(self.body(shallow) * 0.5)
        return self.grow(self.body(shallow) * torch.sigmoid(shallow))


class Depthwise(Chain):
    """A depthwise convolution and a full one, each with an activation."""

    def __init__(self) -> None:
        super().__init__("")
        self.depthwise = nn.Conv2d(FEATURES, FEATURES, 3, padding=1, groups=FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.grow(functional.relu(self.body(functional.relu(self.depthwise(self.head(x))))))


class Sums(Chain):
    """A chain of scaled sums behind a convolution, a sum of two convolutions, and a sum behind an activation."""

    def __init__(self) -> None:
        super().__init__("")
        self.left, self.right, self.active = (networks.conv(FEATURES, FEATURES) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        chained = (self.body(shallow) * 0.2 + shallow) * 0.2 + shallow
        joined = self.left(chained) + self.right(chained)
        return self.grow(functional.relu(self.active(joined)) + joined)


class Resized(Chain):
    """A max pool, and an enlargement that computes new values."""

    def __init__(self) -> None:
        super().__init__("")

    def forward(self, x: Tensor) -> Tensor:
        small = functional.max_pool2d(self.head(x), 2)
        large = functional.interpolate(self.body(small), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.grow(large)


def network_of(module: nn.Module) -> Network:
    """Return a network as it was traced: the pipeline would fold products with constants into weights."""
    torch.manual_seed(0)
    return Network(graph_of(fold_and_trace(module.eval())[1]))


def plan_of(module: nn.Module, rules: Rules) -> Plan:
    return make_plan(network_of(module), rules, networks.recipe(target="onnxruntime"), networks.UNIT)


def sources(plan: Plan) -> set[str]:
    return {site.source for site in plan.sites if site.role == "activation"}


def inside(module: nn.Module, fusions: Collection[Fusion]) -> dict[str, str]:
    """Return the tensors that stay in a kernel, with their readers."""
    network = network_of(module)
    matcher = FusionMatcher(network, tuple(fusions), frozenset(network.convs))
    readers = {network.name(node): matcher.fused_reader(node) for node in network.varying}
    return {name: network.name(reader) for name, reader in readers.items() if reader is not None}


def test_conv_and_clamp_share_a_kernel_if_listed() -> None:
    apart = plan_of(Chain("clamp"), RULES)
    assert {"head/conv", "body/conv"} <= sources(apart)
    assert "no integer kernel" in apart.floats["/clamp"]
    together = plan_of(Chain("clamp"), replace(RULES, fusions=(Fusion("clamp", behind="conv"),)))
    assert {"/clamp", "/clamp.1"} <= sources(together)
    assert not {"head/conv", "body/conv"} & sources(together)
    assert together.floats == {}


@pytest.mark.parametrize(("between", "fused"), [("scale", True), ("gate", False)])
def test_scale_is_a_product_with_a_constant_only(between: str, fused: bool) -> None:  # noqa: FBT001
    plan = plan_of(Chain(between), replace(RULES, fusions=(Fusion("scale", behind="conv"),)))
    assert ("body/conv" not in sources(plan)) is fused
    assert "/mul" in sources(plan)
    assert ("/mul" not in plan.floats) is fused


def test_a_fusion_behind_depthwise_convolutions_leaves_others_alone() -> None:
    plan = plan_of(Depthwise(), replace(RULES, fusions=(Fusion("relu", behind="depthwise_conv"),)))
    assert "depthwise/conv" not in sources(plan)
    assert {"body/conv", "/relu"} <= sources(plan)
    assert list(plan.floats) == ["/relu.1"]


def test_scaled_sums_share_the_kernel_of_a_convolution() -> None:
    chain = {"body/conv": "/mul", "/mul": "/add", "/add": "/mul.1", "/mul.1": "/add.1"}
    assert inside(Sums(), [RESIDUAL]) == {**chain, "left/conv": "/add.2"}
    assert inside(Sums(), [RESIDUAL, Fusion("relu")]) == {**chain, "left/conv": "/add.2", "active/conv": "/relu"}
    assert inside(Sums(), []) == {}


def test_a_kernel_takes_one_branch_of_a_sum() -> None:
    plan = plan_of(Sums(), replace(RULES, fusions=(Fusion("relu"), RESIDUAL)))
    assert "left/conv" not in sources(plan)
    assert {"right/conv", "/relu", "/add.1", "/add.2"} <= sources(plan)


def test_a_float_convolution_begins_no_kernel() -> None:
    network = network_of(Sums())
    matcher = FusionMatcher(network, (RESIDUAL,), [])
    assert all(matcher.fused_reader(node) is None for node in network.varying)


def test_listed_operations_share_one_scale_with_their_inputs() -> None:
    kinds = frozenset({"conv", "interpolate", "max_pool"})
    groups = {}
    for shared in (frozenset[str](), frozenset({"interpolate"})):
        plan = plan_of(Resized(), replace(RULES, inputs=kinds, outputs=kinds, shared_scales=shared))
        groups[shared] = {site.source: site.group for site in plan.sites}
    for members in groups.values():
        assert members["/max_pool"] == members["head/conv"]
    apart, together = groups.values()
    assert apart["/interpolate"] != apart["body/conv"]
    assert together["/interpolate"] == together["body/conv"]
