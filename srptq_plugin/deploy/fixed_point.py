"""Operations on integers, as kernels compute them that multiply by integers and shift."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from srptq_plugin.deploy.htp import HtpConv, HtpSum, in_integers, per_channel
from srptq_plugin.graph.network import TRANSPOSED, Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import INTEGER_WIDTH, QParams
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

SIGNS = {"add": 1, "sub": -1}
ACTIVATIONS = ("leaky_relu", "prelu")
CUTS = ("relu", "relu6", "hardtanh", "clamp")
SLOPE = 0.01
"""The slope of a leaky ReLU that names none."""


def use_fixed_point(simulation: PreparedGraph, rules: Rules) -> PreparedGraph:
    """Return a simulation whose operations between quantizers round as the kernels of a target do.

    Args:
        simulation: A graph with fixed bounds, which is changed.
        rules: The target's rules, which tell the bits of multipliers.
    """
    module, network = simulation.module, Network(simulation.module)
    for node, rounded, inputs in list(_iter_rounded(network, rules)):
        name = f"srptq_rounded_{node.name}"
        module.add_submodule(name, rounded)
        with module.graph.inserting_after(node):
            result = module.graph.call_module(name, inputs)
        # The node itself stays, since its key may name a block.
        node.replace_all_uses_with(result, lambda user, result=result: user is not result)
    module.recompile()
    return PreparedGraph(module, simulation.plan)


def _iter_rounded(network: Network, rules: Rules) -> Iterator[tuple[fx.Node, nn.Module, tuple[Argument, ...]]]:
    """Yield the operations with multipliers, with what computes them from which inputs."""
    for node, op in network.ops.items():
        output = _output(network, node)
        if output is None:
            continue
        if rules.htp_rounding:
            yield from _on_htp(network, node, op, output)
        first, second = _inputs(network, node)
        if op in SIGNS and rules.sum_multiplier_bits is not None and first is not None and second is not None:
            scales = [float(part.scale) for part in (first, second, output)]
            yield node, FixedPointSum(scales, SIGNS[op], rules.sum_multiplier_bits), node.args[:2]
        if op == "leaky_relu" and rules.leaky_multiplier_bits is not None and first is not None:
            scales = [float(part.scale) for part in (first, output)]
            slope = _slopes(network, node)
            if slope is not None:
                yield node, FixedPointLeakyRelu(scales, slope.item(), rules.leaky_multiplier_bits), node.args[:1]


def _on_htp(
    network: Network, node: fx.Node, op: str, output: QParams
) -> Iterator[tuple[fx.Node, nn.Module, tuple[Argument, ...]]]:
    """Yield a sum, a convolution, or the activation behind a convolution, which HTP computes with it."""
    conv, slopes = node, None
    if op in ACTIVATIONS and isinstance(node.args[0], fx.Node):
        conv, slopes = node.args[0], _slopes(network, node)
    first, second = _inputs(network, conv)
    is_conv = network.ops.get(conv) in ("conv", TRANSPOSED)
    weight = network.parameter(conv, 1) if network.ops.get(conv) == "conv" else None
    if weight is not None and network.is_mean_shift(conv):
        second = per_channel(weight[1], 0)
    if first is None or second is None or {first.grid.bits, second.grid.bits, output.grid.bits} != {INTEGER_WIDTH}:
        return
    if op in SIGNS:
        yield node, HtpSum(first, second, output, SIGNS[op]), node.args[:2]
    elif is_conv and (conv is node or slopes is not None):
        yield node, HtpConv(first, second, output, slopes), (conv,)


class FixedPointSum(nn.Module):
    """A sum of two tensors by multipliers of integers, rounded to steps of the output, halves up.

    >>> FixedPointSum([1.0, 2.0, 2.0], 1, 20)(torch.tensor([3.0]), torch.tensor([4.0]))
    tensor([8.])
    """

    def __init__(self, scales: Sequence[float], sign: int, bits: int) -> None:
        super().__init__()
        *self._steps, self._output = scales
        self._sign = sign
        # Kernels divide scales in single precision.
        ratios = [float(np.float32(step) / np.float32(self._output)) for step in self._steps]
        self._shift = bits - (math.frexp(max(ratios))[1] - 1)
        self._factors = [round(ratio * 2.0**self._shift) for ratio in ratios]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Add, or subtract, two tensors that lie on the levels of their quantizers."""
        integers = (
            torch.round(values.double() / step) for values, step in zip((first, second), self._steps, strict=True)
        )
        products = [values * factor for values, factor in zip(integers, self._factors, strict=True)]
        total = products[0] + self._sign * products[1]
        return (torch.floor(total / 2.0**self._shift + 0.5) * self._output).to(first.dtype)


class FixedPointLeakyRelu(nn.Module):
    """A leaky ReLU by one multiplier for each sign, rounded to steps of the output, halves up.

    >>> FixedPointLeakyRelu([1.0, 1.0], 0.25, 8)(torch.tensor([-4.0, 4.0]))
    tensor([-1.,  4.])
    """

    def __init__(self, scales: Sequence[float], slope: float, bits: int) -> None:
        super().__init__()
        self._step, self._output = scales
        ratio = np.float32(self._step) / np.float32(self._output)
        self._shift = 2.0**bits
        self._above, self._below = (round(float(ratio * np.float32(factor)) * self._shift) for factor in (1, slope))

    def forward(self, values: Tensor) -> Tensor:
        """Compute it for values that lie on the levels of their quantizer."""
        integers = torch.round(values.double() / self._step)
        products = integers * torch.where(integers < 0, self._below, self._above)
        return (torch.floor(products / self._shift + 0.5) * self._output).to(values.dtype)


def _qparams(network: Network, node: object) -> QParams | None:
    """Return the levels of a quantizer that a node calls, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    called = network.module.get_submodule(str(node.target))
    return called.qparams() if isinstance(called, BoundedFakeQuantize) else None


def _inputs(network: Network, node: fx.Node) -> tuple[QParams | None, QParams | None]:
    """Return the levels of the first two inputs of an operation."""
    first, second = (*(_qparams(network, argument) for argument in node.args[:2]), None, None)[:2]
    return first, second


def _slopes(network: Network, node: fx.Node) -> Tensor | None:
    """Return the slopes below zero of a leaky ReLU, or of a PReLU as files hold them in 8 bits."""
    if network.ops[node] == "leaky_relu":
        slope = (*node.args[1:2], SLOPE)[0]
        return torch.tensor(slope, dtype=torch.float64) if isinstance(slope, float) else None
    parameter = network.parameter(node, 1)
    return None if parameter is None else in_integers(parameter[1])


def _output(network: Network, node: fx.Node) -> QParams | None:
    """Return the levels behind an operation, or behind the ReLU or clamp that its kernel computes, or None."""
    readers = list(node.users)
    if len(readers) == 1 and network.ops.get(readers[0]) in CUTS:
        readers = list(readers[0].users)
    return _qparams(network, readers[0]) if len(readers) == 1 else None
