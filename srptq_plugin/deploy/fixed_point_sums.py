"""Sums of two tensors of integers, as kernels compute them that multiply by integers and shift."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

SIGNS = {"add": 1, "sub": -1}
SCALES = 3
"""The scales of a sum: of two inputs and of the output."""


def use_fixed_point_sums(simulation: PreparedGraph, bits: int) -> PreparedGraph:
    """Return a simulation whose sums and differences between quantizers have the rounding of such kernels.

    Args:
        simulation: A graph with fixed bounds, which is changed.
        bits: The bits behind the leading one of the larger multiplier.
    """
    module, network = simulation.module, Network(simulation.module)
    for node in [node for node, op in network.ops.items() if op in SIGNS]:
        quantizers = [*(_quantizer(module, source) for source in node.args[:2]), _output(network, node)]
        scales = [float(quantizer.qparams().scale) for quantizer in quantizers if quantizer]
        if len(scales) == SCALES:
            name = f"srptq_sum_{node.name}"
            module.add_submodule(name, FixedPointSum(scales, SIGNS[network.ops[node]], bits))
            with module.graph.inserting_after(node):
                total = module.graph.call_module(name, node.args[:2])
            # The node itself stays, since its key may name a block.
            node.replace_all_uses_with(total)
    module.recompile()
    return PreparedGraph(module, simulation.plan)


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
