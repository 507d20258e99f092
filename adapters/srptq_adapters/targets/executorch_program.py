"""ExecuTorch programs: the float ONNX network, traced with Q/DQ pairs at its sites and lowered to XNNPACK."""

from pathlib import Path
from typing import Any

import onnx
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network, drop_guards
from srptq_plugin.graph.types import Size
from srptq_plugin.quantization.grid import QParams
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.runs.program_file import read_program
from srptq_plugin.runs.run import PROGRAM

aten: Any = torch.ops.aten
affine: Any = torch.ops.quantized_decomposed
ENDS = (-128, 127, torch.int8)
"""The ends and the type of every tensor of integers. XNNPACK takes -8 to 7 for integers of 4 bits."""
QUANTIZE, DEQUANTIZE = affine.quantize_per_tensor.default, affine.dequantize_per_tensor.default
DEQUANTIZE_CHANNELS = affine.dequantize_per_channel.default
SHUFFLES = (aten.pixel_shuffle.default, aten.pixel_unshuffle.default)
MOST_MEMORY = 2**32
"""The most bytes that a program may plan. Sizes that are quotients of sizes have bounds far above what they become."""
FLOATS = (torch.finfo(torch.float32).min, torch.finfo(torch.float32).max)
LEAST = 2
"""The least height and width: torch.export assumes that lengths of 0 and 1 are fixed."""


def compile_network(network: Path, table: QuantTable | None, largest: int) -> bytes:
    """Return the bytes of a program.

    Args:
        network: The float network as ONNX, with its exported program in the same folder.
        table: Its quantization parameters. Without a table the program computes floats.
        largest: The largest height and width that it takes, if the network takes any.
    """
    graph = graph_of(read_program(network.with_name(PROGRAM)))
    size = _only_size(onnx.load(network, load_external_data=False))
    if table:
        graph = _with_integers(graph, table)
        _move_integers(graph, fixed=size is not None)
    return _lower(_retrace(graph, size, largest), size, largest)


def _only_size(model: onnx.ModelProto) -> Size | None:
    """Return the only input that a file takes, or None if it takes any height and width."""
    lengths = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    _, channels, height, width = lengths
    return (1, channels, height, width) if height and width else None


def _with_integers(graph: fx.GraphModule, table: QuantTable) -> fx.GraphModule:
    """Return the graph with a Q/DQ pair at each site."""
    simulated = table.simulate(graph).module
    names = {site.group: site.name for site in table.plan.sites}
    for path, quantizer in list(simulated.named_modules(remove_duplicate=False)):
        if isinstance(quantizer, BoundedFakeQuantize):
            name = names[quantizer.name]
            qparams, weight = table.qparams[name], table.weights.get(name)
            simulated.set_submodule(path, _Rounding(qparams) if weight is None else _Weight(weight, qparams))
    return simulated


class _Rounding(nn.Module):
    """A Q/DQ pair of an activation."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.encoding = float(qparams.scale), int(qparams.zero_point), *ENDS

    def forward(self, values: Tensor) -> Tensor:
        return DEQUANTIZE(QUANTIZE(values, *self.encoding), *self.encoding)


class _Weight(nn.Module):
    """The integers of a weight, dequantized, in place of the float weight."""

    def __init__(self, integers: Tensor, qparams: QParams) -> None:
        super().__init__()
        self._axis = qparams.grid.channel_axis
        self.register_buffer("_integers", integers.to(torch.int8))
        self.register_buffer("_scales", qparams.scale.float().reshape(-1))
        self.register_buffer("_zero_points", torch.zeros(qparams.scale.numel(), dtype=torch.int64))

    def forward(self, _values: Tensor) -> Tensor:
        scales, zero_points = self.get_buffer("_scales"), self.get_buffer("_zero_points")
        integers = self.get_buffer("_integers")
        if self._axis is None:
            return DEQUANTIZE(integers, float(scales), 0, *ENDS)
        return DEQUANTIZE_CHANNELS(integers, scales, zero_points, self._axis, *ENDS)


def _move_integers(graph: fx.GraphModule, *, fixed: bool) -> None:
    """Let pixel shuffles between integers move integers, as operations that XNNPACK has."""
    for node in list(graph.graph.nodes):
        source = node.args[0] if node.target in SHUFFLES else None
        rounding = graph.get_submodule(source.target) if source is not None and source.op == "call_module" else None
        if isinstance(rounding, _Rounding):
            name = f"srptq_moved_{node.name}"
            graph.add_submodule(name, _Shuffle(rounding, node.args[1], node.target, fixed=fixed))
            with graph.graph.inserting_before(node):
                moved = graph.graph.call_module(name, (source,))
            node.replace_all_uses_with(moved)
            graph.graph.erase_node(node)
    graph.recompile()


class _Shuffle(nn.Module):
    """A pixel shuffle, or its inverse, as two reshapes and a permutation of integers.

    XNNPACK reshapes to fixed sizes only. At any size ExecuTorch itself does, on integers, which moves nothing.
    """

    def __init__(self, rounding: _Rounding, factor: int, target: Any, *, fixed: bool) -> None:
        super().__init__()
        self._round, self._factor, self._fixed = rounding, factor, fixed
        self._upwards = target is aten.pixel_shuffle.default

    def forward(self, values: Tensor) -> Tensor:
        batch, channels, height, width = values.shape
        factor = self._factor
        if self._upwards:
            parts = [batch, channels // factor**2, factor, factor, height, width]
            axes, shape = [0, 1, 4, 2, 5, 3], [batch, channels // factor**2, height * factor, width * factor]
        else:
            parts = [batch, channels, height // factor, factor, width // factor, factor]
            axes, shape = [0, 1, 3, 5, 2, 4], [batch, channels * factor**2, height // factor, width // factor]
        permuted = self._round(torch.permute_copy(self._reshape(values, parts), axes))
        return self._reshape(permuted, shape)

    def _reshape(self, values: Tensor, shape: list[int]) -> Tensor:
        if self._fixed:
            return self._round(values.reshape(shape))
        encoding = self._round.encoding
        return DEQUANTIZE(QUANTIZE(values, *encoding).reshape(shape), *encoding)


def _retrace(graph: fx.GraphModule, size: Size | None, largest: int) -> ExportedProgram:
    """Trace a graph again, with the modules of its sites as operations.

    Args:
        graph: The graph, which is changed.
        size: The only input, or None for any.
        largest: The largest height and width if it takes any.
    """
    drop_guards(graph.graph)
    graph.recompile()
    side = Dim.AUTO(min=LEAST, max=largest)
    dynamic = None if size else ({2: side, 3: side},)
    example = torch.zeros(size or _example(graph))
    program = torch.export.export(graph, (example,), dynamic_shapes=dynamic)
    _drop_repeated(program.graph)
    _drop_empty_pads(program.graph)
    _name_clamps(program.graph)
    _dequantize_for_each_reader(program.graph)
    program.graph_module.recompile()
    return program


def _example(graph: fx.GraphModule) -> Size:
    """Return one image of the size that the graph was traced at."""
    _, *lengths = Network(graph).input.meta["val"].shape
    channels, height, width = (length if isinstance(length, int) else length.node.hint for length in lengths)
    return 1, channels, height, width


def _drop_repeated(graph: fx.Graph) -> None:
    """Let integers that are dequantized and quantized again on the same scale stay as they are."""
    for node in list(graph.nodes):
        before = node.args[0] if node.target is QUANTIZE else None
        if before is not None and before.target is DEQUANTIZE and before.args[1:] == node.args[1:]:
            node.replace_all_uses_with(before.args[0])
    graph.eliminate_dead_code()


def _drop_empty_pads(graph: fx.Graph) -> None:
    """Remove paddings by nothing, as multiples of a size get them, which XNNPACK does not load."""
    for node in list(graph.nodes):
        if node.target is aten.pad.default and not any(node.args[1]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _name_clamps(graph: fx.Graph) -> None:
    """Turn clamps into the operation that XNNPACK computes in the kernel of a convolution."""
    for node in graph.nodes:
        if node.target is aten.clamp.default:
            ends = [*node.args[1:], None, None][:2]
            low, high = (float(end) if end is not None else no for end, no in zip(ends, FLOATS, strict=True))
            node.target, node.args, node.kwargs = aten.hardtanh.default, (node.args[0], low, high), {}


def _dequantize_for_each_reader(graph: fx.Graph) -> None:
    """Give each reader of integers a dequantization of its own: XNNPACK's partitioner looks at pairs."""
    for node in list(graph.nodes):
        if node.target in (DEQUANTIZE, DEQUANTIZE_CHANNELS):
            for reader in list(node.users)[1:]:
                with graph.inserting_before(reader):
                    reader.replace_input_with(node, graph.node_copy(node))


def _lower(program: ExportedProgram, size: Size | None, largest: int) -> bytes:
    """Compile a program for XNNPACK."""
    cure = "give another target" if size else "`input_size` compiles one size only, or give another target"
    try:
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # the compiler raises whatever an operation runs into
        raise SrptqError(f"ExecuTorch does not compile the network: {first_line(error)}; {cure}") from error
    planned = sum(lowered.executorch_program.execution_plan[0].non_const_buffer_sizes)
    if planned > MOST_MEMORY:
        raise SrptqError(
            f"ExecuTorch plans {planned / 2**30:.0f} GiB of memory for images of up to {largest} x {largest}; give a "
            "smaller `export.largest`, or `input_size`"
        )
    return lowered.buffer
