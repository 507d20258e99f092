"""Reading ONNX files of strangers: as data only, and with weights from the file's own folder."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
from onnx import ModelProto

from srptq_plugin.errors import SrptqError, first_line

SUFFIX = ".onnx"
SHOWN = 6
"""The number of values of a cycle that a message names."""


def is_onnx(name: str | Path) -> bool:
    """Tell whether a network is named by the path of an ONNX file.

    >>> is_onnx("x4.onnx"), is_onnx("edsr")
    (True, False)
    """
    return str(name).lower().endswith(SUFFIX)


def read_onnx(path: Path) -> ModelProto:
    """Read an ONNX file with its weights.

    Raises:
        SrptqError: there is no such file, it is no valid ONNX graph, or it names weights outside its folder.
    """
    if not path.is_file():
        raise SrptqError(f"{path}: no such file; give an ONNX file")
    try:
        # ONNX itself refuses weights outside the folder, by whatever links.
        model = onnx.load(path)
    except Exception as error:  # protobuf's DecodeError, OSError, and missing external data
        raise SrptqError(f"{path}: cannot be read as ONNX ({first_line(error)})") from error
    if not model.graph.node:
        raise SrptqError(f"{path}: no ONNX graph; give a file that an exporter wrote")
    _refuse_broken_text(path, model)
    _refuse_circles(path, model)
    return model


def _refuse_broken_text(path: Path, model: ModelProto) -> None:
    """Raise if a name is not valid UTF-8, which protobuf returns as bytes."""
    tensors = (*model.graph.initializer, *model.graph.input, *model.graph.output)
    names: list[str | bytes] = [tensor.name for tensor in tensors]
    for node in model.graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    broken = next((name for name in names if isinstance(name, bytes)), None)
    if broken is not None:
        raise SrptqError(f"{path}: no valid ONNX graph, the name {broken!r} is not valid UTF-8; export it again")


def _refuse_circles(path: Path, model: ModelProto) -> None:
    """Raise if a value depends on itself, as readers follow values from node to node without end.

    If two nodes have one output, the inputs of both count.
    """
    order: TopologicalSorter[str] = TopologicalSorter()
    for node in model.graph.node:
        for value in node.output:
            order.add(value, *filter(None, node.input))
    try:
        order.prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1][:SHOWN])
        raise SrptqError(f"{path}: no valid ONNX graph, values are computed from themselves: {circle}") from error
