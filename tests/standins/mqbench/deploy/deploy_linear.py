from collections.abc import Mapping
from typing import Any

import onnx

Readers = dict[str, list[list[Any]]]


class LinearQuantizer_process:  # noqa: N801
    def parse_qparams(self, node: onnx.NodeProto, name2data: Mapping[str, Any]) -> tuple[str, Any, Any]:
        name, scale, zero_point = node.input[:3]
        return name, name2data[scale], name2data[zero_point]


def update_inp2node_out2node(graph: onnx.GraphProto) -> tuple[dict[str, onnx.NodeProto], Readers]:
    readers: Readers = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append([node, place])
    return {name: node for node in graph.node for name in node.output}, readers
