"""XNNPACK, which computes the integers of ExecuTorch and of LiteRT on CPUs."""

from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.quantization.grid import IntGrid

OPS = frozenset({"conv", "conv_transpose", "add", "sub", "mul", "cat", "global_mean"})
BITS = frozenset(range(2, 9))
"""Weights of fewer than 8 bits are stored in 8."""

RULES = Rules(
    weights=IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0),
    activations=IntGrid(8, signed=True),
    weight_bits=BITS,
    activation_bits=frozenset({8}),
    placements=("full",),
    inputs=OPS,
    outputs=OPS,
    fusions=(
        *(Fusion(op, behind="conv") for op in ("relu", "hardtanh", "clamp")),
        *(Fusion("relu", behind=op) for op in ("conv_transpose", "add")),
    ),
    # Its concat copies integers.
    shared_scales=frozenset({"cat"}),
    # It adds an int32 bias to its sums, at the scale of the input times the scale of the weight.
    integer_bias=True,
    # It adds integers that it multiplied by integers of 21 bits, and shifts the sum.
    sum_multiplier_bits=20,
    # Kernels for x86 extend products to 32 bits, with and without VNNI.
    pair_sum_bits=None,
    integer_bits=BITS,
)
