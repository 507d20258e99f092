"""The float ONNX file, exported once, and the placing of Q/DQ in it."""

import json
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch.export import ExportedProgram

from srptq_plugin.errors import SrptqError
from srptq_plugin.grid import IntGrid
from srptq_plugin.network import INPUT, OUTPUT, OpKey, canonical_op
from srptq_plugin.plan import Site
from srptq_plugin.table import QuantTable

OPSET = 20
METADATA = "srptq"
_SCOPES = "pkg.torch.onnx.name_scopes"
_TYPES = {
    "conv": "Conv",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "cat": "Concat",
    "pixel_shuffle": "DepthToSpace",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "prelu": "PRelu",
    "clamp": "Clip",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "nearest": "Resize",
    "interpolate": "Resize",
}
_INTEGERS = {
    (False, 8): TensorProto.UINT8,
    (True, 8): TensorProto.INT8,
    (False, 16): TensorProto.UINT16,
    (True, 16): TensorProto.INT16,
}


def export_float(program: ExportedProgram, path: Path, metadata: Mapping[str, object]) -> None:
    """Write the float network as ONNX, its metadata (input range, scale, ...) in the file."""
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, external_data=False, opset_version=OPSET, verbose=False,
            input_names=["input"], output_names=["output"],
        )  # fmt: skip
    if exported is None:
        raise SrptqError(f"{path.name}: torch.onnx.export gave no file")
    model = exported.model_proto
    _name_dimensions(model)
    model.metadata_props.add(key=METADATA, value=json.dumps(metadata, sort_keys=True))
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision's absence and of its own deprecations: nothing that a user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_dimensions(model: ModelProto) -> None:
    names = {0: "batch", 2: "height", 3: "width"}
    for n, dimension in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if dimension.dim_param and n in names:
            dimension.dim_param = names[n]
    for n, dimension in enumerate(model.graph.output[0].type.tensor_type.shape.dim):
        if dimension.dim_param and n in names:
            dimension.dim_param = names[n] if n == 0 else f"output_{names[n]}"
    del model.graph.value_info[:]


def metadata_of(model: ModelProto) -> dict[str, object]:
    """What `export_float` wrote about the network; empty for a file from elsewhere."""
    return next((json.loads(prop.value) for prop in model.metadata_props if prop.key == METADATA), {})


@dataclass
class OnnxNetwork:
    """A float ONNX file read by the same keys as the exported graph."""

    model: ModelProto
    nodes: dict[str, NodeProto] = field(default_factory=dict[str, NodeProto])
    readers: dict[str, list[tuple[NodeProto, int]]] = field(default_factory=dict[str, list[tuple[NodeProto, int]]])

    def __post_init__(self) -> None:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        self.readers = defaultdict(list)
        for node in self.model.graph.node:
            for place, value in enumerate(node.input):
                self.readers[value].append((node, place))
            found = _path_and_op(node)
            if found and _TYPES.get(found[1]) == node.op_type:
                self.nodes[str(OpKey(*found, counts[found]))] = node
                counts[found] += 1

    def value(self, site: Site) -> str:
        """The name of a site's tensor."""
        for edge in site.consumers:
            if edge.consumer in self.nodes:
                return self.nodes[edge.consumer].input[edge.place]
        if site.source == f"/{INPUT}":
            return self.model.graph.input[0].name
        if any(edge.consumer == f"/{OUTPUT}" for edge in site.consumers):
            return self.model.graph.output[0].name
        if site.source in self.nodes:
            return self.nodes[site.source].output[0]
        raise SrptqError(f"site {site.name}: its tensor is not in the ONNX graph; the exporter folded it away")


def _path_and_op(node: NodeProto) -> tuple[str, str] | None:
    scopes = next((prop.value for prop in node.metadata_props if prop.key == _SCOPES), "")
    found = re.findall(r"'([^']*)'", scopes)
    if len(found) < 2:  # noqa: PLR2004
        return None
    return found[-2], canonical_op(re.sub(r"_+\d+$", "", found[-1]))


class Placer:
    """Puts Q/DQ at the sites of a table: integers for weights, Quantize - (Clip) - Dequantize for activations."""

    def __init__(self, model: ModelProto, table: QuantTable) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.table = table
        self.network = OnnxNetwork(self.model)
        self._first: list[NodeProto] = []
        self._after: dict[str, list[NodeProto]] = defaultdict(list)

    def place(self) -> ModelProto:
        """The model with Q/DQ."""
        by_value: dict[str, list[Site]] = defaultdict(list)
        for site in self.table.plan.sites:
            if site.role == "weight":
                self._weight(site)
            else:
                by_value[self.network.value(site)].append(site)
        for value, sites in by_value.items():
            self._activation(value, sites)
        for conv in self.table.plan.convs:
            self._bias(conv)
        self._emit()
        self._drop_unused()
        onnx.checker.check_model(self.model)
        return self.model

    def _weight(self, site: Site) -> None:
        readers = [self._node(edge.consumer) for edge in site.consumers]
        name = readers[0].input[1]
        grid = self.table.qparams[site.name].grid
        integers = self.table.weights[site.name].numpy().astype(helper.tensor_dtype_to_np_dtype(_type(grid)))
        self._constant(f"{name}_integers", integers)
        parameters = self._parameters(name, site)
        output = f"{name}_dequantized"
        attributes = {} if grid.axis is None else {"axis": grid.axis}
        self._first.append(
            helper.make_node("DequantizeLinear", [f"{name}_integers", *parameters], [output], f"{name}/dq", **attributes)
        )
        for reader in readers:
            reader.input[1] = output

    def _bias(self, conv: str) -> None:
        node = self._node(conv)
        values = next((i for i in self.model.graph.initializer if len(node.input) > 2 and i.name == node.input[2]), None)  # noqa: PLR2004
        rounded = self.table.bias(conv, torch.from_numpy(numpy_helper.to_array(values).copy())) if values else None
        if values is None or rounded is None:
            return
        integers, qparams = rounded
        name = values.name
        self._constant(f"{name}_integers", integers.numpy().astype(np.int32))
        scale = self._constant(f"{name}_scale", qparams.scale.numpy().astype(np.float32))
        zero = self._constant(f"{name}_zero_point", np.zeros(qparams.scale.shape, np.int32))
        axis = {"axis": 0} if qparams.scale.ndim else {}
        output = f"{name}_dequantized"
        self._first.append(
            helper.make_node("DequantizeLinear", [f"{name}_integers", scale, zero], [output], f"{name}/dq", **axis)
        )
        node.input[2] = output

    def _node(self, key: str) -> NodeProto:
        if key not in self.network.nodes:
            raise SrptqError(f"{key}: not found in the ONNX graph; export the network again with this version")
        return self.network.nodes[key]

    def _activation(self, value: str, sites: Sequence[Site]) -> None:
        """Rewire each site's readers; those that no key names follow the site that has unnamed readers."""
        readers = list(self.network.readers[value])
        claimed = {
            (self.network.nodes[edge.consumer].name, edge.place): site
            for site in sites
            for edge in site.consumers
            if edge.consumer in self.network.nodes
        }
        rest = next((site for site in sites if self._has_unnamed(site)), None)
        outputs = {site.name: self._chain(value, site) for site in sites}
        for node, place in readers:
            site = claimed.get((node.name, place), rest)
            if site is not None:
                node.input[place] = outputs[site.name]
        if rest is not None and any(edge.consumer == f"/{OUTPUT}" for edge in rest.consumers):
            self._reroute_output(value, outputs[rest.name])

    def _has_unnamed(self, site: Site) -> bool:
        return any(edge.consumer not in self.network.nodes for edge in site.consumers)

    def _chain(self, value: str, site: Site) -> str:
        grid = self.table.qparams[site.name].grid
        base = re.sub(r"[^\w.]+", "_", site.name).strip("_") + f"_{site.grid.bits}bit"
        parameters = self._parameters(base, site)
        nodes = [helper.make_node("QuantizeLinear", [value, *parameters], [f"{base}_q"], f"{base}/q")]
        narrow = grid.bits not in (8, 16)
        if narrow:
            kind = helper.tensor_dtype_to_np_dtype(_type(grid))
            ends = [self._constant(f"{base}_{n}", np.array(end, kind)) for n, end in (("min", grid.qmin), ("max", grid.qmax))]
            nodes.append(helper.make_node("Clip", [f"{base}_q", *ends], [f"{base}_clip"], f"{base}/clip"))
        integers = f"{base}_clip" if narrow else f"{base}_q"
        nodes.append(helper.make_node("DequantizeLinear", [integers, *parameters], [f"{base}_dq"], f"{base}/dq"))
        self._after[value] += nodes
        return f"{base}_dq"

    def _parameters(self, base: str, site: Site) -> tuple[str, str]:
        """Scale and zero point; the zero point is always written, of the integers' own type."""
        found = self.table.qparams[site.name]
        kind = helper.tensor_dtype_to_np_dtype(_type(found.grid))
        scale = self._constant(f"{base}_scale", found.scale.numpy().astype(np.float32))
        return scale, self._constant(f"{base}_zero_point", found.integer_zero_point.numpy().astype(kind))

    def _constant(self, name: str, values: np.ndarray) -> str:  # pyright: ignore[reportMissingTypeArgument]
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _reroute_output(self, value: str, quantized: str) -> None:
        """The graph's output keeps its name; the tensor before it takes another."""
        inner = f"{value}_float"
        for node in self.model.graph.node:
            node.output[:] = [inner if name == value else name for name in node.output]
        self._after[inner] = self._after.pop(value)
        for node in self._after[inner]:
            node.input[:] = [inner if name == value else name for name in node.input]
            node.output[:] = [value if name == quantized else name for name in node.output]
        for node in self.model.graph.node:
            node.input[:] = [value if name == quantized else name for name in node.input]

    def _emit(self) -> None:
        ordered = [*self._first, *self._after.get(self.model.graph.input[0].name, [])]
        for node in self.model.graph.node:
            ordered.append(node)
            for value in node.output:
                ordered += self._after.get(value, [])
        copies = [NodeProto() for _ in ordered]
        for copy, node in zip(copies, ordered, strict=True):
            copy.CopyFrom(node)
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)

    def _drop_unused(self) -> None:
        used = {value for node in self.model.graph.node for value in node.input}
        kept = [each for each in self.model.graph.initializer if each.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)


def _type(grid: IntGrid) -> int:
    return _INTEGERS[grid.signed, 8 if grid.bits <= 8 else 16]  # noqa: PLR2004
