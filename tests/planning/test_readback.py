"""Quantizers of a prepared graph: which modules count, and where layers keep them."""

from typing import Any

from torch import Tensor, fx, nn
from torch.ao.quantization import FakeQuantize, MinMaxObserver

from srptq_plugin.graph.network import QUANTIZER, Network
from srptq_plugin.planning.plan import Edge
from srptq_plugin.planning.readback import iter_quantizers, plan_from_graph
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.quantization.quantizer_kinds import AnyQuantizer


class Foreign(nn.Module):
    """A fake-quantizer of some toolkit."""

    def forward(self, values: Tensor) -> Tensor:
        return values


class Layer(nn.Conv2d):
    """A quantized layer, with quantizers of its bias and its weight."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__(3, 3, 1)
        self.bias_quantizer, self.weight_quantizer = FakeQuantize(), quantizer


def chained(*modules: nn.Module) -> fx.GraphModule:
    """Return a graph that calls modules one after the other."""
    graph = fx.Graph()
    node = graph.placeholder("image")
    for number in range(len(modules)):
        node = graph.call_module(str(number), (node,))
    graph.output(node)
    return fx.GraphModule(nn.Sequential(*modules), graph)


def operations(module: fx.GraphModule) -> list[str]:
    return [op for node, op in Network(module).ops.items() if node.op == "call_module"]


def test_bounded_and_torch_quantizers_count() -> None:
    quantizers: list[Any] = [BoundedFakeQuantize("a", IntGrid(8)), FakeQuantize(), MinMaxObserver()]
    assert operations(chained(*quantizers)) == 3 * [QUANTIZER]
    assert operations(chained(nn.ReLU())) == ["relu"]


def test_registered_classes_count() -> None:
    class Registered(Foreign):
        pass

    class Derived(Registered):
        pass

    assert QUANTIZER not in operations(chained(Registered()))
    AnyQuantizer.register(Registered)
    assert operations(chained(Registered(), Derived())) == 2 * [QUANTIZER]
    assert QUANTIZER not in operations(chained(Foreign()))


def test_layers_keep_the_quantizer_of_their_weight() -> None:
    quantizer = FakeQuantize()
    (placed,) = iter_quantizers(Network(chained(Layer(quantizer))))
    assert placed.quantizer is quantizer
    assert (placed.path, placed.name, placed.role) == ("0.weight_quantizer", "0.weight", "weight")
    assert placed.consumers == (Edge("0/conv", 1),)


def test_called_quantizers_name_tensor_and_readers() -> None:
    (placed,) = iter_quantizers(Network(chained(FakeQuantize(), nn.Conv2d(3, 3, 1))))
    assert (placed.path, placed.role) == ("0", "activation")
    assert placed.consumers == (Edge("1/conv", 0),)


def test_plan_has_only_our_quantizers() -> None:
    own = BoundedFakeQuantize("group", IntGrid(4, signed=True, symmetric=True, channel_axis=0))
    plan = plan_from_graph(chained(FakeQuantize(), Layer(own)))
    assert [(site.name, site.role, site.group, site.grid) for site in plan.sites] == [
        ("1.weight", "weight", "group", own.grid)
    ]
