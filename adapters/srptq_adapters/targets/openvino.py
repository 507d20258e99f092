"""OpenVINO: Q/DQ ONNX, saved as IR. Activations are asymmetric (`mixed`) or symmetric (`performance`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from srptq_adapters.targets.overflow_rules import check
from srptq_adapters.targets.probe import saturates
from srptq_adapters.targets.runtime_import import import_runtime
from srptq_plugin.deploy.onnx_export import OnnxNetwork
from srptq_plugin.deploy.qdq import Placer, stored_sites
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Reals, Size
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.grid import IntGrid

if TYPE_CHECKING:
    from srptq_plugin.planning.plan import Site

STEM = "model_openvino"
BITS = frozenset(range(2, 9))
"""Integers of fewer than 8 bits are stored in 8, and a Clip keeps them in range."""
INTEGERS = ("u8", "i8")
SIGNED = "@signed"
"""The end of the names of sites that are written as signed integers."""
CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
"""CPUs with bfloat16 would run the float parts in it, and differ from the simulation."""

QUANTIZE = "QuantizeLinear"
EXTREMES = ("ReduceMax", "ReduceMin")
_WITHOUT_BIAS = 2
TINY = 1e-30
"""A bias that leaves every sum of floats as it is."""

MOVED = frozenset({"pixel_shuffle", "max_pool", "nearest", "split", "slice", "pad"})
"""Operations that move integers rather than floats, if all that they give is read as integers."""

ACTIVATIONS = (
    "clamp",
    "elu",
    "gelu",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "prelu",
    "relu6",
    "sigmoid",
    "tanh",
)

MIXED = Rules(
    weights=IntGrid(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0),
    activations=IntGrid(8),
    weight_bits=BITS,
    activation_bits=BITS,
    placements=("full", "convs"),
    inputs=frozenset({"conv", "conv_transpose", "add", "cat", *MOVED}),
    # With a zero point, or with steps beyond 3, oneDNN's transposed convolutions compute in float.
    symmetric_inputs=frozenset({"conv_transpose"}),
    transposed_stride=3,
    # OpenVINO 2026.4.1 computes the other readers of integers whose channels it repeats in float.
    float_inputs=frozenset({"repeat_interleave"}),
    outputs=frozenset(),
    stored_once=True,
    float_long_skip=True,
    # The CPU plugin appends scales, sums and activations to a convolution as post-ops of oneDNN, before it rounds to 8
    # bits.
    fusions=(
        Fusion("relu"),
        Fusion("add", behind="conv", through=frozenset({"scale", "add"})),
        *(Fusion(activation, behind="conv") for activation in ACTIVATIONS),
    ),
    # oneDNN without VNNI: `vpmaddubsw` adds two uint8 * int8 products in saturating int16.
    pair_sum_bits=16,
    integer_bits=BITS,
)
PERFORMANCE = replace(
    MIXED,
    activations=IntGrid(8, signed=True, symmetric=True),
    nonnegative_activations=IntGrid(8, symmetric=True),
)


class OpenVinoTarget:
    """8-bit integers on CPUs: `mixed` has asymmetric activations, `performance` symmetric ones.

    On processors without VNNI a transposed convolution of negative values is slower in int8 than in float. An override
    with `quantize: false` leaves it float.
    """

    presets: Mapping[str, Rules] = {"mixed": MIXED, "performance": PERFORMANCE}

    def require(self) -> None:
        """Raise `MissingRuntimeError` without OpenVINO, which itself writes the IR."""
        import_runtime("openvino")

    def write(self, network: Path, table: QuantTable, folder: Path) -> Sequence[Path]:
        """Write intermediate representation (.xml, .bin), and the Q/DQ ONNX file that it was read from."""
        openvino = import_runtime("openvino")
        onnx_file, xml = folder / f"{STEM}.onnx", folder / f"{STEM}.xml"
        model = onnx.load(network)
        placed = Placer(model, _unsigned(_with_signed_sites(table, model)), repeated=False).place()
        _add_biases(placed)
        _part_from_extremes(placed)
        onnx.save(placed, onnx_file)
        try:
            read = openvino.Core().read_model(onnx_file)
        except Exception as error:
            raise _refusal("read", error) from error
        openvino.save_model(read, xml, compress_to_fp16=False)
        return tuple(folder / f"{STEM}.{kind}" for kind in ("xml", "bin", "onnx"))

    def lint(self, model: onnx.ModelProto) -> Sequence[Finding]:
        """Find weights that overflow on processors without VNNI."""
        return check(model)

    def load(self, artifact: Path) -> "OpenVinoModel":
        """Compile a file for the CPU."""
        return OpenVinoModel(artifact)

    def inspect(self, artifacts: Sequence[Path], table: QuantTable) -> "OpenVinoInspection":
        """Compile the IR with the integers of every site as further outputs."""
        return OpenVinoInspection(artifacts[0], artifacts[-1], table)

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:
        """Return a command that times the file with OpenVINO's own tool."""
        shape = "" if fixed else f' -data_shape "[{",".join(map(str, size))}]"'
        return f"benchmark_app -m {artifact.name} -d CPU -hint latency{shape}"


def _with_signed_sites(table: QuantTable, model: onnx.ModelProto) -> QuantTable:
    """Give transposed convolutions that read signed integers sites of their own, which stay signed."""
    nodes = OnnxNetwork(model).nodes
    sites: list[Site] = []
    qparams = dict(table.qparams)
    for site in table.plan.sites:
        own = tuple(edge for edge in site.consumers if _is_transposed(nodes.get(edge.consumer)))
        others = tuple(edge for edge in site.consumers if edge not in own)
        if site.role == "weight" or not site.grid.signed or not own:
            sites.append(site)
            continue
        name = f"{site.name}{SIGNED}"
        # Not repeated: the integers that are moved to it are unsigned.
        sites.append(replace(site, name=name, consumers=own, repeats=False))
        qparams[name] = qparams[site.name]
        if others:
            sites.append(replace(site, consumers=others))
    return replace(table, plan=replace(table.plan, sites=tuple(sites)), qparams=qparams)


def _is_transposed(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type == "ConvTranspose"


def _unsigned(table: QuantTable) -> QuantTable:
    """Store signed activations as unsigned integers of the same levels, with zero points moved by half the range."""
    # OpenVINO 2026.4.1 miscomputes concats of signed integers: on the IMDN of the tests the error was 3 times the
    # error of quantization, with unsigned integers it was 0. Its convolutions compute in uint8 anyway.
    turned = {site.name for site in table.plan.sites if site.role == "activation" and not site.name.endswith(SIGNED)}
    qparams = {name: q.unsigned() if name in turned else q for name, q in table.qparams.items()}
    return replace(table, qparams=qparams)


def _add_biases(model: onnx.ModelProto) -> None:
    """Give a bias to convolutions without one whose outputs are read both as integers and as floats."""
    # OpenVINO 2026.4.1 miscomputes these in files of any size: a toy was 26 dB from its simulation, and 87 dB with a
    # bias. It drops a bias of 0. This one is too small to change a sum.
    graph = OnnxNetwork(model)
    channels = {constant.name: constant.dims[0] for constant in model.graph.initializer if constant.dims}
    producers = {name: node for node in model.graph.node for name in node.output}
    for conv in model.graph.node:
        kinds = {reader.op_type for reader, _ in graph.readers[conv.output[0]]}
        if conv.op_type == "Conv" and len(conv.input) == _WITHOUT_BIAS and QUANTIZE in kinds and kinds != {QUANTIZE}:
            weight = conv.input[1]
            integers = producers[weight].input[0] if weight in producers else weight
            bias = f"{conv.name}_no_bias"
            model.graph.initializer.append(numpy_helper.from_array(np.full(channels[integers], TINY, np.float32), bias))
            conv.input.append(bias)


def _part_from_extremes(model: onnx.ModelProto) -> None:
    """Let a Max of a tensor with itself follow each reduction to its largest or smallest values."""
    # OpenVINO 2026.4.1 miscomputes a reduction like this if its output is quantized, also behind a concat: half of the
    # values were wrong. It computes the rounding in the kernel of the Max then.
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type in EXTREMES:
            output, inner = node.output[0], f"{node.output[0]}_reduced"
            node.output[0] = inner
            nodes.append(onnx.helper.make_node("Max", [inner, inner], [output], f"{output}_kept"))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


class OpenVinoModel:
    """A compiled model, with the execution graph that it runs."""

    def __init__(self, artifact: Path) -> None:
        openvino = import_runtime("openvino")
        self.name = f"openvino {openvino.__version__.split('-')[0]}"
        try:
            self._model = openvino.Core().compile_model(artifact, "CPU", CONFIG)
        except Exception as error:
            raise SrptqError(f"{artifact}: OpenVINO does not load it: {error}") from error

    def __call__(self, image: Array) -> Array:
        """Run a [N, 3, H, W] batch."""
        try:
            output = np.asarray(self._model(image)[0])
        except Exception as error:
            raise _refusal("run", error) from error
        if not output.size:  # some operations fail without an error
            raise _refusal("run", RuntimeError("its output is empty"))
        return output

    def integer_convs(self) -> int:
        """Return how many convolutions, transposed ones included, the execution graph runs in 8-bit integers."""
        return sum(self.kernels().values())

    def kernels(self) -> Mapping[str, int]:
        """Count integer convolutions by the kernel that the execution graph names."""
        operations = (operation.get_rt_info() for operation in self._model.get_runtime_model().get_ops())
        convs = (info for info in operations if _text(info, "layerType") in ("Convolution", "Deconvolution"))
        kernels = (_text(info, "primitiveType") for info in convs if _text(info, "runtimePrecision") in INTEGERS)
        # Float kernels that read integers, as transposed convolutions do at large strides, are not among them.
        return Counter(kernel for kernel in kernels if not kernel.endswith("f32"))

    def saturates(self) -> bool:
        """Tell whether OpenVINO's kernels overflow here, measured once."""
        return _saturates()


class OpenVinoInspection:
    """A compiled model whose further outputs are the integer tensors of the sites.

    Its kernels write these tensors anyway, so the same operations are fused.
    """

    def __init__(self, xml: Path, onnx_file: Path, table: QuantTable) -> None:
        openvino = import_runtime("openvino")
        core = openvino.Core()
        try:
            model = core.read_model(xml)
        except Exception as error:
            raise SrptqError(f"{xml}: OpenVINO does not load it: {first_line(error)}") from error
        tensors = {name for operation in model.get_ops() for output in operation.outputs() for name in output.names}
        stored = stored_sites(onnx.load(onnx_file), [*table.plan.sites, *_as_signed(table.plan.sites)])
        self._sites = {
            name.removesuffix(SIGNED): site for name, site in reversed(stored.items()) if site.tensor in tensors
        }
        model.add_outputs(sorted({site.tensor for site in self._sites.values()}))
        self._model = core.compile_model(model, "CPU", CONFIG)

    def __call__(self, image: Array) -> tuple[Array, Mapping[str, Reals]]:
        """Run a batch. Return the output, and the tensors by site."""
        results = self._model(image)
        tensors = {name: site.real(np.asarray(results[site.tensor])) for name, site in self._sites.items()}
        return np.asarray(results[0]), tensors


def _as_signed(sites: "Sequence[Site]") -> "list[Site]":
    return [replace(site, name=f"{site.name}{SIGNED}") for site in sites if site.role == "activation"]


@cache
def _saturates() -> bool:
    return saturates(OpenVinoModel)


def _refusal(does: str, error: Exception) -> SrptqError:
    """Return an error with what OpenVINO says of an operation that it lacks, without the places in its own source."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    said = [line for line in lines if not line.startswith(("Check ", "Exception from ", "FrontEnd API failed"))]
    reason = "; ".join(said or lines)[:400]
    return SrptqError(f"OpenVINO does not {does} the network: {reason}; give another target, or replace the operation")


def _text(info: Any, key: str) -> str:
    return str(info[key].value) if key in info else ""


TARGET = OpenVinoTarget()
