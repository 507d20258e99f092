"""SNPE and QNN: the float ONNX file with encodings of its tensors, or Q/DQ ONNX for ONNX Runtime's QNN provider."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper

from srptq_adapters.export_options import SnpeExport
from srptq_adapters.targets import encodings_rules
from srptq_adapters.targets.encodings import Encodings, Version, read
from srptq_adapters.targets.qnn_file import OPSET_OF_16_BITS, write_qdq
from srptq_adapters.targets.qnn_provider import QnnProvider
from srptq_adapters.targets.reference_runtime import ReferenceRuntime
from srptq_plugin.deploy.onnx_export import OnnxNetwork
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError, short
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.network import MOVEMENT
from srptq_plugin.graph.rules import Rules, WideBounds
from srptq_plugin.graph.types import Size
from srptq_plugin.planning.plan import Site
from srptq_plugin.plugins.protocols import Finding
from srptq_plugin.quantization.grid import IntGrid, QParams, dequantize, quantize

FILE, ENCODINGS, QDQ_FILE = "model_snpe.onnx", "model_snpe.encodings", "model_qnn.onnx"
DEFAULTS = SnpeExport()
OPS = frozenset({"conv", "conv_transpose", "add", "cat", "leaky_relu", "prelu"})
RELU = Fusion("relu")
FUSIONS = (RELU, Fusion("leaky_relu", behind="conv"), Fusion("prelu", behind="conv"))
HTP_FUSIONS = (
    RELU,
    *(Fusion(cut, behind="conv") for cut in ("relu6", "hardtanh", "clamp")),
    *(Fusion(activation, behind="small_conv") for activation in ("leaky_relu", "prelu")),
)
"""What HTP v73 was seen to compute in one kernel."""

DEFAULT = Rules(
    weights=IntGrid(8, signed=True, symmetric=True, channel_axis=0),
    activations=IntGrid(8),
    weight_bits=frozenset({4, 8}),
    activation_bits=frozenset({8, 16}),
    placements=("full",),
    inputs=OPS,
    outputs=OPS,
    fusions=FUSIONS,
    shared_scales=frozenset({"cat"}),
    # Qualcomm's converter fills the gaps that encodings leave, and loses much.
    every_tensor=True,
    # An encoding belongs to a tensor of the file, so all of its readers have the same.
    one_grid_per_tensor=True,
    integer_bits=frozenset({4, 8, 16}),
    # HTP computes them on levels of its own, whatever an encoding says.
    wide_bounds=(WideBounds("sigmoid", 0.0, 1 - 2.0**-16), WideBounds("tanh", -1.0, 1 - 2.0**-15)),
)
DSP = replace(DEFAULT, fusions=(RELU,))
LEGACY = replace(DSP, weights=IntGrid(8), weight_bits=frozenset({8}), per_channel=False)


class SnpeTarget:
    """Asymmetric activations of 8 or 16 bits.

    The default preset is for HTP v73 (Snapdragon 8 Gen 2) and newer, which compute a leaky ReLU or PReLU inside the
    convolution. `dsp` is for DSPs, which also round before the activation. `legacy` is for SNPE before 2, with one
    asymmetric scale per weight.
    """

    presets: Mapping[str, Rules] = MappingProxyType({"default": DEFAULT, "dsp": DSP, "legacy": LEGACY})

    def require(self) -> None:
        """Accept every machine: writing needs ONNX only."""

    def adapt(self, rules: Rules, *, format: str = DEFAULTS.format, **_options: object) -> Rules:  # noqa: A002
        """Return the rules of HTP v73 as ONNX Runtime's QNN provider runs it, if it is to read the file."""
        return replace(rules, fusions=HTP_FUSIONS, integer_bias=True, htp_rounding=True) if format == "qdq" else rules

    def write(
        self,
        network: Path,
        table: QuantTable,
        folder: Path,
        *,
        format: str = DEFAULTS.format,  # noqa: A002
        encodings: Version = DEFAULTS.encodings,
    ) -> Sequence[Path]:
        """Write the float file, with tuned weights and biases, and the encodings. Or write one Q/DQ file."""
        model = onnx.load(network)
        if format == "qdq":
            onnx.save(write_qdq(model, table), folder / QDQ_FILE)
            return (folder / QDQ_FILE,)
        operations = OnnxNetwork(model)
        record = _encodings(operations, table)
        _put_tuned(model, operations, table)
        onnx.save(model, folder / FILE)
        record.write(folder / ENCODINGS, encodings)
        return (folder / FILE, folder / ENCODINGS)

    def lint_pair(self, model: ModelProto, encodings: Path) -> Sequence[Finding]:
        """Find encodings that are missing, unused or of the wrong width, and groups that they split."""
        return encodings_rules.check(model, encodings)

    def load(self, artifact: Path) -> ReferenceRuntime | QnnProvider:
        """Load a Q/DQ file into the QNN provider. Otherwise read the file with its encodings as Q/DQ, in ONNX Runtime.

        SNPE itself runs on a phone.
        """
        if artifact.name == QDQ_FILE:
            return QnnProvider(artifact)
        model, encodings = onnx.load(artifact), artifact.with_suffix(".encodings")
        return ReferenceRuntime(
            put_encodings(model, encodings) if encodings.exists() else model, artifact, "SNPE's files"
        )

    def command(self, artifact: Path, size: Size, *, fixed: bool) -> str:  # noqa: ARG002
        """Return a command that converts the files with Qualcomm's converter, or times the Q/DQ file."""
        if artifact.name == QDQ_FILE:
            return f"onnxruntime_perf_test -e qnn -i 'backend_path|libQnnHtp.so' -I {artifact.name}"
        shape = ",".join(map(str, size))
        return (
            f"qairt-converter --input_network {artifact.name} --quantization_overrides {ENCODINGS} "
            f"--source_model_input_shape input {shape} --output_path {artifact.stem}.dlc"
        )


def _encodings(network: OnnxNetwork, table: QuantTable) -> Encodings:
    activations: dict[str, QParams] = {}
    parameters: dict[str, QParams] = {}
    for site in table.plan.sites:
        if site.role == "weight":
            parameters[network.nodes[site.consumers[0].consumer].input[1]] = table.qparams[site.name]
        elif not (site.repeats and site.op in MOVEMENT) or _is_resized(site):
            activations[network.value(site)] = table.qparams[site.name]
    return Encodings(activations, parameters)


def _is_resized(site: Site) -> bool:
    # Qualcomm's tools take Resize for arithmetic: the smaller map counts as encoded only if the larger one is.
    return site.op == "nearest"


def _put_tuned(model: ModelProto, network: OnnxNetwork, table: QuantTable) -> None:
    """Put weights and tuned biases into the float file, in place."""
    # Each weight lies exactly at its level, so that tools that round it again get the integer of the table.
    constants = {constant.name: constant for constant in model.graph.initializer}
    readers = {site.name: site.consumers[0].consumer for site in table.plan.weights}
    weights = [(conv, 1, table.level(name)) for name, conv in readers.items()]
    for conv, input_index, values in [*weights, *((conv, 2, bias) for conv, bias in table.biases.items())]:
        name = network.nodes[conv].input[input_index]
        constants[name].CopyFrom(numpy_helper.from_array(values.numpy(), name))


def _snap_weights(model: ModelProto, parameters: Mapping[str, QParams]) -> None:
    """Round each weight to the nearest level of its encoding, in place."""
    weights = {constant.name: constant for constant in model.graph.initializer}
    # Versions 0.6.1 and 1.0.0 do not store the axis: it follows from the operation.
    transposed = {node.input[1] for node in model.graph.node if node.op_type == "ConvTranspose"}
    for name, qparams in parameters.items():
        if name in transposed and qparams.scale.ndim:
            qparams = replace(qparams, grid=replace(qparams.grid, channel_axis=1))  # noqa: PLW2901
        values = torch.from_numpy(numpy_helper.to_array(weights[name]).copy())
        level = dequantize(quantize(values, qparams), qparams)
        weights[name].CopyFrom(numpy_helper.from_array(level.float().numpy(), name))


def put_encodings(model: ModelProto, path: Path) -> ModelProto:
    """Put the encodings of a file into a float model: weights at their levels, activations through Q/DQ pairs."""
    encodings = read(path, [constant.name for constant in model.graph.initializer])
    known = {name for node in model.graph.node for name in (*node.input, *node.output)}
    if absent := {*encodings.activations, *encodings.parameters} - known:
        raise SrptqError(f"{path}: no tensor {short(min(absent))} in the float file; run `srptq quantize` again")
    _snap_weights(model, encodings.parameters)
    for name, qparams in encodings.activations.items():
        _put_qdq(model, name, qparams)
    model.opset_import[0].version = max(model.opset_import[0].version, OPSET_OF_16_BITS)
    return model


def _put_qdq(model: ModelProto, name: str, qparams: QParams) -> None:
    graph, kind = model.graph, np.dtype(f"uint{qparams.grid.bits}")
    graph.initializer.append(numpy_helper.from_array(qparams.scale.numpy(), f"{name}_scale"))
    graph.initializer.append(numpy_helper.from_array(qparams.zero_point.numpy().astype(kind), f"{name}_zero"))
    # The output of the graph keeps its name, so its float value is renamed. Elsewhere the readers get the new name.
    is_output = name == graph.output[0].name
    inner, outer = (f"{name}_float", name) if is_output else (name, f"{name}_dequantized")
    for node in graph.node:
        node.input[:] = [outer if value == name else value for value in node.input]
        node.output[:] = [inner if value == name else value for value in node.output]
    constants = [f"{name}_scale", f"{name}_zero"]
    pair = [
        helper.make_node("QuantizeLinear", [inner, *constants], [f"{name}_integers"]),
        helper.make_node("DequantizeLinear", [f"{name}_integers", *constants], [outer]),
    ]
    after = next((n + 1 for n, node in enumerate(graph.node) if inner in node.output), 0)
    for node in reversed(pair):
        graph.node.insert(after, node)


TARGET = SnpeTarget()
