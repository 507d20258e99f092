"""The values beyond which saturating activations give the same."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from helpers.toy_modules import conv
from torch import Tensor, fx, nn
from torch.nn import functional

from srptq_plugin.graph.export import export_network, graph_of
from srptq_plugin.graph.limits import Limits, compute_limits, join_limits
from srptq_plugin.graph.network import Network
from srptq_plugin.quantization.fake_quantize import fake_quantize
from srptq_plugin.quantization.grid import Bounds, IntGrid, project

ACTIVATIONS = [nn.Tanh(), nn.Sigmoid(), nn.ReLU6(), nn.Hardtanh(), nn.Hardtanh(-0.5, 2.0), nn.Hardsigmoid()]
Function = Callable[[Tensor], Tensor]


class Reads(nn.Module):
    """A convolution, and the functions that read it."""

    def __init__(self, *functions: Function) -> None:
        super().__init__()
        self.conv, self.functions = conv(3, 12), functions
        self.layers = nn.ModuleList(function for function in functions if isinstance(function, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return torch.cat([function(maps) for function in self.functions])


def traced(*functions: Function) -> Network:
    return Network(graph_of(export_network(Reads(*functions).eval())))


def limits_in(network: Network, bits: int = 8) -> Limits | None:
    return compute_limits(network, network.edges_out(network.nodes["conv/conv"]), bits)


def limits_of(*functions: Function) -> Limits | None:
    return limits_in(traced(*functions))


@cache
def exported(index: int) -> Network:
    return traced(ACTIVATIONS[index])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("index", range(len(ACTIVATIONS)), ids=[str(layer) for layer in ACTIVATIONS])
def test_values_beyond_limits_move_one_level(index: int, bits: int) -> None:
    limits, activation = limits_in(exported(index), bits), ACTIVATIONS[index]
    assert limits is not None
    values = torch.linspace(-40, 40, 40001, dtype=torch.float64)
    outputs, limited = activation(values), activation(values.clamp(*limits))
    qparams = project(Bounds.of(*outputs.aminmax()), IntGrid(bits))
    moved = (fake_quantize(outputs, qparams) - fake_quantize(limited, qparams)).abs().max() / qparams.scale
    assert moved < 1.01
    errors = [
        (outputs - activation(values.clamp(*(share * end for end in limits if end is not None)))).abs().max()
        for share in (1, 0.98)
    ]
    assert errors[0] < 0.126 * qparams.scale
    assert errors[1] > errors[0]


def test_known_limits_at_8_bits() -> None:
    assert limits_of(torch.tanh) == pytest.approx((-3.8, 3.8), abs=0.05)
    assert limits_of(torch.sigmoid) == pytest.approx((-7.6, 7.6), abs=0.05)
    assert limits_of(functional.hardsigmoid) == (-3, 3)
    assert limits_of(functional.relu6) == (0, 6)
    assert limits_of(lambda x: x.clamp(-1, 2)) == limits_of(lambda x: x.clip(-1, 2)) == (-1, 2)


def test_a_clamp_may_have_one_end() -> None:
    assert limits_of(lambda x: x.clamp(max=1)) == (None, 1)
    assert limits_of(lambda x: x.clamp(min=-2)) == (-2, None)
    assert limits_of(lambda x: x.clamp(min=-2), lambda x: x.clamp(max=1)) is None


def test_several_readers_have_the_outermost_limits() -> None:
    assert limits_of(functional.relu6, lambda x: x.clamp(-1, 2)) == (-1, 6)
    assert limits_of(lambda x: x.clamp(-1, 2), lambda x: x.clamp(max=1)) == (None, 2)
    assert join_limits([None, (0.0, 1.0)]) is None


@pytest.mark.parametrize("other", [torch.relu, functional.hardswish, torch.neg, torch.detach])
def test_readers_that_do_not_saturate_have_none(other: Function) -> None:
    assert limits_of(other) is None
    assert limits_of(torch.tanh, other) is None


def test_an_end_that_is_computed_is_none() -> None:
    assert limits_of(lambda x: torch.clamp(x, max=x.mean())) is None
    assert limits_of(lambda x: torch.clamp(torch.ones_like(x), min=x)) is None


def test_movement_is_looked_through() -> None:
    assert limits_of(lambda x: functional.pixel_shuffle(x, 2).clamp(0, 1)) == (0, 1)
    parts = limits_of(lambda x: torch.cat([part.clamp(-n, 2) for n, part in enumerate(x.chunk(3, 1))]))
    assert parts == (-2, 2)
    assert limits_of(lambda x: functional.pixel_shuffle(x, 2)) is None


@pytest.mark.parametrize("index", range(len(ACTIVATIONS)), ids=[str(layer) for layer in ACTIVATIONS])
def test_traced_layers_have_the_same_limits(index: int) -> None:
    network = Network(fx.symbolic_trace(nn.Sequential(conv(3, 3), ACTIVATIONS[index])))
    edges = network.edges_out(network.nodes["0/conv"])
    assert compute_limits(network, edges, 8) == limits_in(exported(index))


def test_traced_functions_read_ends_by_name() -> None:
    class Clamps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.hardtanh(x, max_val=3.0) + x.clamp(-1, max=2)

    network = Network(fx.symbolic_trace(Clamps()))
    assert compute_limits(network, network.edges_out(network.input), 8) == (-1, 3)
