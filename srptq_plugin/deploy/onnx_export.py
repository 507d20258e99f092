"""The float ONNX file: its export, and its nodes under the keys of the exported graph."""

import json
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch.export import ExportedProgram

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import INPUT, OUTPUT, OpKey
from srptq_plugin.graph.operation_names import canonical_op
from srptq_plugin.planning.plan import Site

OPSET = 20
METADATA = "srptq"
"""The key of this project's entry in a model's metadata."""
# Metadata that torch.onnx writes for each node: Python lists as text, outermost module first, the operator last.
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_TYPES = {
    "conv": "Conv",
    "conv_transpose": "ConvTranspose",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "cat": "Concat",
    "matmul": "MatMul",
    "pad": "Pad",
    "pixel_shuffle": "DepthToSpace",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "prelu": "PRelu",
    "clamp": "Clip",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "nearest": "Resize",
    "interpolate": "Resize",
    "avg_pool": "AveragePool",
    "max_pool": "MaxPool",
    "mean": "ReduceMean",
}


def export_float(program: ExportedProgram, path: Path, metadata: Mapping[str, object]) -> None:
    """Write the float network as ONNX, with metadata such as the input range and the scale in the file."""
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, external_data=False, opset_version=OPSET, verbose=False,
            input_names=["input"], output_names=["output"],
        )  # fmt: skip
    if exported is None:
        raise SrptqError(
            f"{path.name}: torch.onnx.export returned no model; report this with the versions of torch and onnx"
        )
    model = exported.model_proto
    _name_dimensions(model)
    model.metadata_props.add(key=METADATA, value=json.dumps(metadata, sort_keys=True))
    onnx.save(model, path)


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the exporter's warnings, on torchvision's absence and its own deprecations. No user can act on them."""
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
    # Intermediate shapes still name the old dimensions. Runtimes infer shapes themselves.
    del model.graph.value_info[:]


def metadata_of(model: ModelProto) -> dict[str, object]:
    """Return the metadata that `export_float` wrote. Empty for a file from another exporter."""
    return next((json.loads(prop.value) for prop in model.metadata_props if prop.key == METADATA), {})


@dataclass
class OnnxNetwork:
    """A float ONNX file, read by the keys of the exported graph.

    Attributes:
        model: The file.
        nodes: The node of each operation, by its key as text.
        readers: For each value, the nodes that read it, with the index of the input.
    """

    model: ModelProto
    nodes: dict[str, NodeProto] = field(default_factory=dict[str, NodeProto])
    readers: dict[str, list[tuple[NodeProto, int]]] = field(default_factory=dict[str, list[tuple[NodeProto, int]]])

    def __post_init__(self) -> None:
        parts: dict[tuple[str, str, str], list[NodeProto]] = defaultdict(list)
        self.readers = defaultdict(list)
        for node in self.model.graph.node:
            for index, value in enumerate(node.input):
                self.readers[value].append((node, index))
            if origin := _origin(node):
                parts[origin].append(node)
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for (path, op, _), nodes in parts.items():
            # An operation may become several nodes. The one of the expected type stands for it, or else the last.
            alike = [node for node in nodes if _TYPES.get(op, node.op_type) == node.op_type]
            if alike:
                self.nodes[str(OpKey(path, op, counts[path, op]))] = alike[-1]
                counts[path, op] += 1

    def value(self, site: Site) -> str:
        """Return the name of a site's tensor."""
        for edge in site.consumers:
            if edge.consumer in self.nodes:
                return self.nodes[edge.consumer].input[edge.input_index]
        if site.source == f"/{INPUT}":
            return self.model.graph.input[0].name
        if any(edge.consumer == f"/{OUTPUT}" for edge in site.consumers):
            return self.model.graph.output[0].name
        if site.source in self.nodes:
            return self.nodes[site.source].output[0]
        raise SrptqError(f"site {site.name}: its tensor is not in the ONNX graph; the exporter folded it away")


def _origin(node: NodeProto) -> tuple[str, str, str] | None:
    """Return the module path, the operation and the name in the traced graph that a node was exported from.

    None for a node that computes sizes, which come from Python's own functions.
    """
    scopes, kinds = read_scopes(node), _read_list(node, _CLASSES)
    if len(scopes) < 2 or not kinds or kinds[-1].startswith("<"):  # noqa: PLR2004 - "<built-in function mul>"
        return None
    # The exporter decomposes a transposed convolution to aten.convolution, which tells it by an argument.
    op = "conv_transpose" if node.op_type == _TYPES["conv_transpose"] else canonical_op(kinds[-1])
    return scopes[-2], op, scopes[-1]


def read_scopes(node: NodeProto) -> list[str]:
    """Return the module paths that torch's exporter keeps of a node, outermost first and the operator last."""
    return _read_list(node, _SCOPES)


def _read_list(node: NodeProto, key: str) -> list[str]:
    return re.findall(r"'([^']*)'", next((prop.value for prop in node.metadata_props if prop.key == key), ""))
