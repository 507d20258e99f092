"""Memory of feature maps, against the storage that torch itself holds and a search over every path to a reader."""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from helpers import networks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from srptq_plugin.costs.memory import Memory, Moment
from srptq_plugin.costs.shapes import trace_shapes
from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.network import GUARDS, MOVEMENT, Network, OpKey
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import Edge, Plan, Site
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid

SIZE = (1, 3, 8, 10)
ATEN: Any = torch.ops.aten


class StorageMeter(fx.Interpreter):
    """An interpreter that adds up, after each operation, the storage that cannot be freed yet."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.bytes: list[int] = []

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and n.target == GUARDS:
            return None
        value = super().run_node(n)
        values = [result for node, result in [*self.env.items(), (n, value)] if node.op not in ("get_attr", "output")]
        tensors = [result for result in values if isinstance(result, Tensor)]
        tensors += [part for result in values if isinstance(result, list) for part in result]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        self.bytes.append(sum(storages.values()))
        return value


def peak_in_torch(network: Network) -> int:
    with torch.no_grad():
        meter = StorageMeter(network.module)
        meter.run(torch.zeros(SIZE))
    return max(meter.bytes)


def memory(network: Network, rules: Rules | None = None) -> Memory:
    return Memory(network, trace_shapes(network, SIZE), rules)


@pytest.mark.parametrize("kind", [*networks.NETWORKS, *networks.OTHERS])
def test_float_memory_equals_torchs_storage(kind: str) -> None:
    module = networks.graph(kind)
    module.graph.eliminate_dead_code()  # fx holds tensors without readers to the end
    network = Network(module)
    assert memory(network).peak().bytes == peak_in_torch(network)


OPERATIONS = ("conv", "relu", "add", "cat", "split", "shuffle")


@st.composite
def graphs(draw: st.DrawFn) -> Network:
    """Draw networks without dead ends. A tensor may have several readers, and so may each part of a split."""
    module, graph = torch.nn.Module(), fx.Graph()
    image = graph.placeholder("x")
    maps = [(image, 3, 1)]
    for number in range(draw(st.integers(1, 9))):
        op = draw(st.sampled_from(OPERATIONS))
        source, channels, scale = draw(st.sampled_from(maps))
        alike = [entry for entry in maps if entry[1:] == (channels, scale)]
        if op == "conv":
            out = draw(st.sampled_from((4, 8)))
            module.register_buffer(f"w{number}", torch.zeros(out, channels, 1, 1))
            weight = graph.get_attr(f"w{number}")
            maps.append((graph.call_function(ATEN.conv2d.default, (source, weight)), out, scale))
        elif op == "relu":
            maps.append((graph.call_function(ATEN.relu.default, (source,)), channels, scale))
        elif op == "add":
            other = draw(st.sampled_from(alike))[0]
            maps.append((graph.call_function(ATEN.add.Tensor, (source, other)), channels, scale))
        elif op == "cat":
            other = draw(st.sampled_from(alike))[0]
            maps.append((graph.call_function(ATEN.cat.default, ([source, other], 1)), 2 * channels, scale))
        elif op == "split" and channels % 2 == 0:
            parts = graph.call_function(ATEN.split.Tensor, (source, channels // 2, 1))
            halves = (graph.call_function(_getitem, (parts, part)) for part in (0, 1))
            maps += [(half, channels // 2, scale) for half in halves]
        elif op == "shuffle" and channels % 4 == 0:
            maps.append((graph.call_function(ATEN.pixel_shuffle.default, (source, 2)), channels // 4, 2 * scale))
    loose = [node for node, *_ in maps if not node.users]
    graph.output(tuple(loose))
    return Network(fx.GraphModule(module, graph))


def _getitem(parts: Any, part: int) -> Any:
    return parts[part]


_getitem.__name__ = "getitem"


@settings(max_examples=60)
@given(graphs())
def test_any_float_graph_equals_torchs_storage(network: Network) -> None:
    assert memory(network).peak().bytes == peak_in_torch(network)


@st.composite
def planned(draw: st.DrawFn) -> tuple[Network, Plan]:
    """Draw a network, and a plan with sites for some readers of each tensor."""
    network = draw(graphs())
    sites: list[Site] = []
    for node, op in network.ops.items():
        if op in ("split", "output"):
            continue
        readers: dict[int, list[Edge]] = {}
        for user, index in network.edges_out(node):
            bits = draw(st.sampled_from((0, 2, 5, 8))) if network.ops[user] in ("conv", "add", "cat") else 0
            readers.setdefault(bits, []).append(Edge(network.name(user), index))
        for bits, edges in readers.items():
            if bits:
                name = f"{network.name(node)}@{bits}"
                sites.append(_site(name, network.keys[node], bits, edges))
    return network, Plan(tuple(sites), (), (), {})


def _site(name: str, producer: OpKey | None, bits: int, edges: list[Edge]) -> Site:
    return Site(name, "activation", "body", IntGrid(bits), producer, tuple(edges), group=name)


class BruteForce:
    """The definition: a tensor is stored in every format for which a path of moves leads to a reader still to come."""

    def __init__(self, network: Network, plan: Plan) -> None:
        self.network, self.order = network, list(network.ops)
        self.sites = {edge: site for site in plan.sites for edge in site.consumers}
        self.sides = {node: shape.sides for node, shape in trace_shapes(network, SIZE).items()}

    def bytes(self, now: int) -> int:
        """Return the bytes at one operation."""
        owners = [node for node in self.order[: now + 1] if node in self.sides and not self._is_view(node)]
        return sum(self._tensor_bytes(node, now) for node in owners)

    def _tensor_bytes(self, node: fx.Node, now: int) -> int:
        paths = list(self._paths(node, None, node)) or [("32", self.order.index(node), node)]
        total, whole = 0, math.prod(self.sides[node])
        for stored in {path_format for path_format, step, _ in paths if step >= now}:
            parts = {view for path_format, _, view in paths if path_format == stored}
            elements = sum(math.prod(self.sides[part]) for part in parts)
            total += math.ceil(min(elements, whole) * int(stored.split()[0]) / 8)
        return total

    def _paths(self, node: fx.Node, first: int | None, view: fx.Node) -> Iterator[tuple[str, int, fx.Node]]:
        """Yield the format, the last step that needs this tensor, and the part that it needs."""
        for user, index in self.network.edges_out(node):
            step = self.order.index(user) if first is None else first
            site = self.sites.get(Edge(self.network.name(user), index))
            if site:
                yield f"{site.grid.bits} {site.name}", step, view
            elif self._is_view(user):
                part = user if first is None and user in self.sides else view
                yield from self._paths(user, first, part)
            elif self.network.ops[user] in MOVEMENT:
                yield from self._paths(user, step, view)
            else:
                yield "32", step, view

    def _is_view(self, node: fx.Node) -> bool:
        return self.network.ops[node] in ("split", "getitem")


@settings(max_examples=100)
@given(planned())
def test_a_plan_stores_each_map_for_its_readers(case: tuple[Network, Plan]) -> None:
    network, plan = case
    timeline, expected = memory(network).timeline(plan), BruteForce(network, plan)
    assert [moment.bytes for moment in timeline] == [expected.bytes(now) for now in range(len(timeline))]


@settings(max_examples=40)
@given(planned(), st.integers(0, 100))
def test_more_bits_never_take_less_memory(case: tuple[Network, Plan], number: int) -> None:
    network, plan = case
    sites = list(plan.sites)
    if sites:
        chosen = number % len(sites)
        site = sites[chosen]
        sites[chosen] = _site(site.name, site.producer, site.grid.bits + 3, list(site.consumers))
    more = Plan(tuple(sites), (), (), {})
    pairs = zip(memory(network).timeline(plan), memory(network).timeline(more), strict=True)
    assert all(before.bytes <= after.bytes for before, after in pairs)


@cache
def timelines(kind: str, target: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return timelines at 8 bits and in float, in channels of maps as large as the image."""
    recipe = networks.recipe(8, target)
    maps = memory(Network(networks.graph(kind)), BoundRecipe.of(recipe, Registry()).rules)
    pixels = SIZE[2] * SIZE[3]
    eight, plain = maps.timeline(networks.plan(kind, recipe)), maps.timeline()
    return _by_name(eight, pixels), _by_name(plain, 4 * pixels)


def _by_name(moments: tuple[Moment, ...], unit: int) -> dict[str, int]:
    return {moment.operation: moment.bytes // unit for moment in moments}


@pytest.mark.parametrize("kind", ["edsr", "scaled"])
def test_a_fused_branch_is_not_stored(kind: str) -> None:
    eight, plain = timelines(kind, "openvino")
    long_skip, skip, branch, out = 6, 6, 6, 6
    assert eight["body.1/add"] == 4 * long_skip + skip + branch + out  # the long skip stays float
    assert plain["body.1/add"] == long_skip + skip + branch + out
    assert "body.1.second/conv" not in eight


def test_a_scaled_fused_branch_is_not_stored() -> None:
    eight, plain = timelines("esrgan", "openvino")
    for inside in ("body.0.rdb1.conv2/conv", "body.0.rdb1/mul"):
        assert inside not in eight
        assert inside not in plain
    long_skip, skip, concat, out = 6, 6, 10, 6
    assert eight["body.0.rdb1/add"] == 4 * long_skip + skip + concat + out


def test_the_image_is_always_stored() -> None:
    graph = fx.Graph()
    graph.output(graph.call_function(ATEN.relu.default, (graph.placeholder("x"),)))
    network = Network(fx.GraphModule(torch.nn.Module(), graph))
    rules = BoundRecipe.of(networks.recipe(8, "openvino"), Registry()).rules
    image = 4 * math.prod(SIZE)
    assert [moment.bytes for moment in memory(network, rules).timeline()] == [image, 2 * image, image]


def test_parameter_views_take_no_memory() -> None:
    class Centered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Buffer(torch.full((1, 3, 1, 1), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x - self.mean.type_as(x))

    network = Network(graph_of(export_network(Centered())))
    assert memory(network).peak() == Moment("/sub", 2 * 4 * math.prod(SIZE))


def test_an_unfused_branch_is_stored() -> None:
    eight, plain = timelines("edsr", "onnxruntime")
    long_skip, skip, branch, out = 6, 6, 6, 6
    assert plain["body.1.second/conv"] == long_skip + skip + branch + out
    assert eight["body.1.second/conv"] == plain["body.1.second/conv"]


def test_an_activation_fuses_into_its_convolution() -> None:
    eight, _ = timelines("edsr", "onnxruntime")
    shallow, out = 6, 6
    assert eight["body.0/relu"] == shallow + out
    assert "body.0.first/conv" not in eight


def test_a_pixel_shuffle_copies_at_its_readers_bits() -> None:
    eight, plain = timelines("edsr", "openvino")
    before, after, pixels, colors = 24, 6 * 4, 4, 3
    assert eight["shuffle/pixel_shuffle"] == plain["shuffle/pixel_shuffle"] == before + after
    assert eight["tail/conv"] == after + pixels * colors * 4
    assert plain["tail/conv"] == after + pixels * colors
