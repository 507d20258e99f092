"""The placing of Q/DQ in a float ONNX file, by a quant table."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from srptq_plugin.deploy.onnx_export import OnnxNetwork
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import OUTPUT
from srptq_plugin.planning.plan import Site
from srptq_plugin.quantization.grid import IntGrid, QParams

_WHOLE_TYPES = (8, 16)
_BIAS_PLACE = 2


class Placer:
    """Puts Q/DQ at the sites of a table: integers for weights, Quantize - (Clip) - Dequantize for activations.

    Behind data movement a quantizer changes nothing; a runtime that carries integers through wants none there.
    """

    def __init__(self, model: ModelProto, table: QuantTable, *, behind_movement: bool = True) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.table = table
        self.behind_movement = behind_movement
        self.network = OnnxNetwork(self.model)
        self._constants = {each.name: each for each in self.model.graph.initializer}
        self._first: list[NodeProto] = []
        self._after: dict[str, list[NodeProto]] = defaultdict(list)

    def place(self) -> ModelProto:
        """The model with Q/DQ."""
        by_value: dict[str, list[Site]] = defaultdict(list)
        for site in self.table.plan.sites:
            if site.role == "weight":
                self._weight(site)
            elif self.behind_movement or not self.table.plan.is_moved(site):
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
        integers, qparams = self.table.weights[site.name], self.table.qparams[site.name]
        output = self._stored(readers[0].input[1], integers, qparams)
        for reader in readers:
            reader.input[1] = output

    def _bias(self, conv: str) -> None:
        node = self._node(conv)
        values = self._constants.get(node.input[_BIAS_PLACE]) if len(node.input) > _BIAS_PLACE else None
        if values is not None:
            name = f"{_plain(conv)}_bias"
            rounded = self.table.bias(conv, torch.from_numpy(numpy_helper.to_array(values).copy()))
            if rounded is not None:
                node.input[_BIAS_PLACE] = self._stored(name, *rounded)
            elif conv in self.table.biases:
                node.input[_BIAS_PLACE] = self._constant(name, self.table.biases[conv].numpy())

    def _stored(self, name: str, integers: torch.Tensor, qparams: QParams) -> str:
        """Integers behind a DequantizeLinear."""
        stored = self._constant(f"{name}_integers", integers.numpy().astype(_dtype(qparams.grid)))
        axis = {"axis": qparams.grid.channel_axis} if qparams.scale.ndim else {}
        inputs = [stored, *self._parameters(name, qparams)]
        self._first.append(_node("DequantizeLinear", inputs, f"{name}_dequantized", **axis))
        return f"{name}_dequantized"

    def _node(self, key: str) -> NodeProto:
        if key not in self.network.nodes:
            raise SrptqError(f"{key}: not found in the ONNX graph; export the network again with this version")
        return self.network.nodes[key]

    def _activation(self, value: str, sites: Sequence[Site]) -> None:
        """Rewire each site's readers; those that no key names follow the site that has unnamed readers.

        A `Shape` reads behind a site too: ONNX Runtime fuses no convolution whose float output has a second reader.
        """
        rest = next((site for site in sites if self._has_unnamed(site)), None)
        claimed = self._claims(sites)
        outputs = {site.name: self._chain(value, site) for site in sites}
        for node, index in self.network.readers[value]:
            site = claimed.get((node.output[0], index), rest or (sites[0] if node.op_type == "Shape" else None))
            if site is not None:
                node.input[index] = outputs[site.name]
        if rest is not None and any(edge.consumer == f"/{OUTPUT}" for edge in rest.consumers):
            self._reroute_output(value, outputs[rest.name])

    def _claims(self, sites: Sequence[Site]) -> dict[tuple[str, int], Site]:
        """Which site feeds a reader, by the reader's output and the place."""
        return {
            (self.network.nodes[edge.consumer].output[0], edge.input_index): site
            for site in sites
            for edge in site.consumers
            if edge.consumer in self.network.nodes
        }

    def _has_unnamed(self, site: Site) -> bool:
        return any(edge.consumer not in self.network.nodes for edge in site.consumers)

    def _chain(self, value: str, site: Site) -> str:
        """Quantize, clip below the width of the type, dequantize."""
        qparams = self.table.qparams[site.name]
        base = f"{_plain(site.name)}_{site.grid.bits}bit"
        parameters = self._parameters(base, qparams)
        nodes = [_node("QuantizeLinear", [value, *parameters], f"{base}_q")]
        if qparams.grid.bits not in _WHOLE_TYPES:
            nodes.append(_node("Clip", [f"{base}_q", *self._ends(base, qparams.grid)], f"{base}_clip"))
        nodes.append(_node("DequantizeLinear", [nodes[-1].output[0], *parameters], f"{base}_dq"))
        self._after[value] += nodes
        return f"{base}_dq"

    def _ends(self, base: str, grid: IntGrid) -> list[str]:
        ends = {"min": grid.qmin, "max": grid.qmax}
        return [self._constant(f"{base}_{name}", np.array(end, _dtype(grid))) for name, end in ends.items()]

    def _parameters(self, base: str, qparams: QParams) -> tuple[str, str]:
        """Scale and zero point; the zero point is always written, of the integers' own type."""
        scale = self._constant(f"{base}_scale", qparams.scale.numpy().astype(np.float32))
        zero = qparams.integer_zero_point.numpy().astype(_dtype(qparams.grid))
        return scale, self._constant(f"{base}_zero_point", zero)

    def _constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _reroute_output(self, value: str, quantized: str) -> None:
        """The graph's output keeps its name; the tensor before it takes another."""
        inner = f"{value}_float"
        nodes = [*self.model.graph.node, *self._after[value]]
        for node in nodes:
            node.input[:] = [{value: inner, quantized: value}.get(name, name) for name in node.input]
            node.output[:] = [{value: inner, quantized: value}.get(name, name) for name in node.output]
        self._after[inner] = self._after.pop(value)

    def _emit(self) -> None:
        """Q/DQ right behind the tensors that they quantize, so that the order stays topological."""
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


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], output, **attributes)


def _dtype(grid: IntGrid) -> np.dtype[Any]:
    """The narrowest ONNX integers that hold a grid."""
    width = next(width for width in (8, 16, 32) if grid.bits <= width)
    return np.dtype(f"{'int' if grid.signed else 'uint'}{width}")


def _plain(key: str) -> str:
    return re.sub(r"[^\w.]+", "_", key).strip("_")
