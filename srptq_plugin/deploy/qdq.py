"""Insertion of Q/DQ nodes into a float ONNX file, by a quant table."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from srptq_plugin.deploy.onnx_export import OnnxNetwork
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import OUTPUT
from srptq_plugin.graph.types import Reals
from srptq_plugin.planning.plan import Site
from srptq_plugin.quantization.grid import IntGrid, QParams

_WHOLE_TYPES = (8, 16)
"""Bits at which QuantizeLinear itself saturates to the grid. Others need a Clip."""
_BIAS_INDEX = 2


class Placer:
    """A float ONNX file that gets Q/DQ at the sites of a table.

    Weights become integers behind a DequantizeLinear. Activations pass QuantizeLinear, (Clip,) DequantizeLinear.

    Args:
        model: The float network. It stays as it is.
        table: The quant table.
        repeated: Whether sites whose values another site rounds get Q/DQ as well. They change no value, and a runtime
            that moves and joins integers has no use for them.
    """

    def __init__(self, model: ModelProto, table: QuantTable, *, repeated: bool = True) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.table = table
        self.repeated = repeated
        self.network = OnnxNetwork(self.model)
        self._constants = {constant.name: constant for constant in self.model.graph.initializer}
        # New nodes for `_emit`: nodes that read constants only, and nodes by the value that they quantize.
        self._first: list[NodeProto] = []
        self._after: dict[str, list[NodeProto]] = defaultdict(list)

    def place(self) -> ModelProto:
        """Insert all nodes, check the model, and return it."""
        by_value: dict[str, list[Site]] = defaultdict(list)
        for site in self.table.plan.sites:
            if site.role == "weight":
                self._place_weight(site)
            elif self.repeated or not site.repeats:
                by_value[self.network.value(site)].append(site)
        for value, sites in by_value.items():
            self._place_activation(value, sites)
        for conv in self.table.plan.convs:
            self._place_bias(conv)
        self._emit()
        onnx.checker.check_model(self.model)
        return self.model

    def _place_weight(self, site: Site) -> None:
        readers = [self._node(edge.consumer) for edge in site.consumers]
        integers, qparams = self.table.weights[site.name], self.table.qparams[site.name]
        # Not named by the file's constant: the exporter lets equal parameters share one.
        output = self._dequantize(site.name, integers, qparams)
        for reader in readers:
            reader.input[1] = output

    def _place_bias(self, conv: str) -> None:
        node = self._node(conv)
        values = self._constants.get(node.input[_BIAS_INDEX]) if len(node.input) > _BIAS_INDEX else None
        if values is not None:
            name = f"{_identifier(conv)}_bias"
            rounded = self.table.bias(conv, torch.from_numpy(numpy_helper.to_array(values).copy()))
            if rounded is not None:
                node.input[_BIAS_INDEX] = self._dequantize(name, *rounded)
            elif conv in self.table.biases:
                node.input[_BIAS_INDEX] = store(self.model, name, self.table.biases[conv].numpy())

    def _dequantize(self, name: str, integers: torch.Tensor, qparams: QParams) -> str:
        self._first.append(dequantizing(self.model, name, integers, qparams))
        return self._first[-1].output[0]

    def _node(self, key: str) -> NodeProto:
        if key not in self.network.nodes:
            raise SrptqError(f"{key}: not found in the ONNX graph; export the network again with this version")
        return self.network.nodes[key]

    def _place_activation(self, value: str, sites: Sequence[Site]) -> None:
        """Insert the chains of all sites on one tensor, and let the readers of each site read its chain.

        Readers without a key, such as the parts of a decomposed operation, follow the site that has such readers.
        """
        rest = next((site for site in sites if self._has_unnamed(site)), None)
        claimed, named = self._claims(sites), {node.output[0] for node in self.network.nodes.values()}
        outputs = {site.name: self._chain(value, site) for site in sites}
        for node, index in self.network.readers[value]:
            # A Shape reads the quantized tensor too: ONNX Runtime fuses no convolution whose float output has a second
            # reader.
            follows = rest if node.output[0] not in named else None
            site = claimed.get((node.output[0], index), follows or (sites[0] if node.op_type == "Shape" else None))
            if site is not None:
                node.input[index] = outputs[site.name]
        if rest is not None and any(edge.consumer == f"/{OUTPUT}" for edge in rest.consumers):
            self._reroute_output(value, outputs[rest.name])

    def _claims(self, sites: Sequence[Site]) -> dict[tuple[str, int], Site]:
        """Return the site that feeds each reader, by the reader's output and the index of its input."""
        return {
            (self.network.nodes[edge.consumer].output[0], edge.input_index): site
            for site in sites
            for edge in site.consumers
            if edge.consumer in self.network.nodes
        }

    def _has_unnamed(self, site: Site) -> bool:
        return any(edge.consumer not in self.network.nodes for edge in site.consumers)

    def _chain(self, value: str, site: Site) -> str:
        """Append Quantize - (Clip) - Dequantize after a value, and return the name of the last output."""
        qparams = self.table.qparams[site.name]
        base = _base(site)
        parameters = store_parameters(self.model, base, qparams)
        nodes = [_node("QuantizeLinear", [value, *parameters], f"{base}_q")]
        if qparams.grid.bits not in _WHOLE_TYPES:
            # QuantizeLinear saturates to the 8 or 16 bits of its type, not to a narrower grid.
            nodes.append(_node("Clip", [f"{base}_q", *self._ends(base, qparams.grid)], f"{base}_clip"))
        nodes.append(_node("DequantizeLinear", [nodes[-1].output[0], *parameters], f"{base}_dq"))
        self._after[value] += nodes
        return f"{base}_dq"

    def _ends(self, base: str, grid: IntGrid) -> list[str]:
        ends = {"min": grid.qmin, "max": grid.qmax}
        return [store(self.model, f"{base}_{name}", np.array(end, _dtype(grid))) for name, end in ends.items()]

    def _reroute_output(self, value: str, quantized: str) -> None:
        """Give the quantized tensor the name of the graph's output, and another name to the float tensor before it."""
        inner = f"{value}_float"
        nodes = [*self.model.graph.node, *self._after[value]]
        for node in nodes:
            node.input[:] = [{value: inner, quantized: value}.get(name, name) for name in node.input]
            node.output[:] = [{value: inner, quantized: value}.get(name, name) for name in node.output]
        self._after[inner] = self._after.pop(value)

    def _emit(self) -> None:
        """Write all nodes, with Q/DQ right behind the tensors that they quantize: the order stays topological."""
        ordered = [*self._first, *self._after.get(self.model.graph.input[0].name, [])]
        for node in self.model.graph.node:
            ordered.append(node)
            for value in node.output:
                ordered += self._after.get(value, [])
        replace_nodes(self.model, ordered)


@dataclass(frozen=True)
class StoredSite:
    """The integer tensor of a site in a Q/DQ file, with the levels that the file gives it."""

    tensor: str
    kind: int
    """The type of the integers, from `TensorProto`."""
    scale: float
    zero_point: int

    def real(self, integers: np.ndarray[Any, Any]) -> Reals:
        """Convert integers to real numbers."""
        return (integers.astype(np.float64) - self.zero_point) * self.scale


def stored_sites(model: ModelProto, sites: Sequence[Site]) -> dict[str, StoredSite]:
    """Return the integer tensors of activations in a file that `Placer` made, by site. Others have no tensor there."""
    nodes = {node.name: node for node in model.graph.node}
    constants = {constant.name: constant for constant in model.graph.initializer}
    stored: dict[str, StoredSite] = {}
    for site in sites:
        node = nodes.get(f"{_base(site)}_dq")
        if site.role == "activation" and node is not None:
            scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            kind = constants[node.input[2]].data_type
            stored[site.name] = StoredSite(node.input[0], kind, float(scale), int(zero))
    return stored


def dequantizing(model: ModelProto, name: str, integers: torch.Tensor, qparams: QParams) -> NodeProto:
    """Store integers, and return the DequantizeLinear that reads them."""
    constant = store(model, f"{name}_integers", integers.numpy().astype(_dtype(qparams.grid)))
    axis = {"axis": qparams.grid.channel_axis} if qparams.scale.ndim else {}
    inputs = [constant, *store_parameters(model, name, qparams)]
    return _node("DequantizeLinear", inputs, f"{name}_dequantized", **axis)


def store_parameters(model: ModelProto, base: str, qparams: QParams) -> tuple[str, str]:
    """Store the scale and the zero point, and return their names."""
    # The zero point is always written: its type decides the type of the integers, which is uint8 without it.
    scale = store(model, f"{base}_scale", qparams.scale.numpy().astype(np.float32))
    zero = qparams.integer_zero_point.numpy().astype(_dtype(qparams.grid))
    return scale, store(model, f"{base}_zero_point", zero)


def store(model: ModelProto, name: str, values: np.ndarray[Any, Any]) -> str:
    """Store a constant, and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def replace_nodes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Give a file other nodes, in this order, and drop the constants that none of them reads."""
    # Copied first, as nodes may live in the field that is cleared next.
    copies = [NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)
    read = {value for node in copies for value in node.input}
    constants = [constant for constant in model.graph.initializer if constant.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], output, **attributes)


def _dtype(grid: IntGrid) -> np.dtype[Any]:
    """Return the narrowest type of ONNX integers that holds a grid."""
    width = next(width for width in (8, 16, 32) if grid.bits <= width)
    return np.dtype(f"{'int' if grid.signed else 'uint'}{width}")


def _base(site: Site) -> str:
    """Return how the names of a site's nodes begin."""
    return f"{_identifier(site.name)}_{site.grid.bits}bit"


def _identifier(key: str) -> str:
    return re.sub(r"[^\w.]+", "_", key).strip("_")
