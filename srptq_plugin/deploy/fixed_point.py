"""Operations on integers, as kernels compute them that multiply by integers and shift."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from srptq_plugin.graph.network import Network
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

SIGNS = {"add": 1, "sub": -1}
SLOPE = 0.01
"""The slope of a leaky ReLU that names none."""


def use_fixed_point(simulation: PreparedGraph, rules: Rules) -> PreparedGraph:
    """Return a simulation whose operations between quantizers round as the kernels of a target do.

    Args:
        simulation: A graph with fixed bounds, which is changed.
        rules: The target's rules, which tell the bits of multipliers.
    """
    module, network = simulation.module, Network(simulation.module)
    for node, rounded in list(_iter_rounded(network, rules)):
        name = f"srptq_rounded_{node.name}"
        module.add_submodule(name, rounded)
        inputs = node.args[:2] if isinstance(rounded, FixedPointSum) else node.args[:1]
        with module.graph.inserting_after(node):
            result = module.graph.call_module(name, inputs)
        # The node itself stays, since its key may name a block.
        node.replace_all_uses_with(result)
    module.recompile()
    return PreparedGraph(module, simulation.plan)


def _iter_rounded(network: Network, rules: Rules) -> Iterator[tuple[fx.Node, nn.Module]]:
    """Yield the operations with multipliers, and what computes them."""
    for node, op in network.ops.items():
        output = _scale(_output(network, node))
        if output is not None and op in SIGNS and rules.sum_multiplier_bits is not None:
            first, second = (_scale(_quantizer(network.module, source)) for source in node.args[:2])
            if first is not None and second is not None:
                yield node, FixedPointSum([first, second, output], SIGNS[op], rules.sum_multiplier_bits)
        elif output is not None and op == "leaky_relu" and rules.leaky_multiplier_bits is not None:
            source, slope = _scale(_quantizer(network.module, node.args[0])), (*node.args[1:2], SLOPE)[0]
            if source is not None and isinstance(slope, float):
                yield node, FixedPointLeakyRelu([source, output], slope, rules.leaky_multiplier_bits)


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


def _scale(quantizer: BoundedFakeQuantize | None) -> float | None:
    return None if quantizer is None else float(quantizer.qparams().scale)


def _quantizer(module: fx.GraphModule, node: object) -> BoundedFakeQuantize | None:
    """Return the quantizer that a node calls, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    called = module.get_submodule(str(node.target))
    return called if isinstance(called, BoundedFakeQuantize) else None


def _output(network: Network, node: fx.Node) -> BoundedFakeQuantize | None:
    """Return the quantizer of a sum, or of the ReLU that its kernel computes, or None."""
    readers = list(node.users)
    if len(readers) == 1 and network.ops.get(readers[0]) == "relu":
        readers = list(readers[0].users)
    return _quantizer(network.module, readers[0]) if len(readers) == 1 else None
