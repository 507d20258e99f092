"""Check of any ONNX file against the rules of a target."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx

from srptq_plugin.errors import ArgumentError, SrptqError, first_line
from srptq_plugin.plugins.protocols import Finding, Linter
from srptq_plugin.plugins.registry import Registry

SHOWN = 6
"""The number of values of a cycle that a message names."""


def lint(path: Path | str, target: str, registry: Registry | None = None) -> Sequence[Finding]:
    """Check an ONNX file, and return a finding for each violation of a rule of the target. Empty if it keeps all rules.

    Args:
        path: The file, from this project or any other exporter.
        target: The name of a target.
        registry: The plugins. By default all installed ones.
    """
    linter = (registry or Registry()).target(target).load()
    if not isinstance(linter, Linter):
        raise ArgumentError("target", "has no rules for files of others; `srptq verify` runs its own", target)
    model = _read(Path(path))
    try:
        return linter.lint(model)
    except SrptqError as error:
        raise SrptqError(f"{path}: no valid ONNX graph, {error}") from error
    except Exception as error:
        # A rule may fail in any way on a damaged file. If the file is valid, the rule is at fault: raise its error.
        _refuse_invalid(Path(path), model, error)
        raise


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's DecodeError, OSError, and missing external data
        raise SrptqError(f"{path}: cannot be read as ONNX ({first_line(error)})") from error
    if not model.graph.node:
        raise SrptqError(f"{path}: no ONNX graph; give a file that an exporter wrote")
    _refuse_broken_text(path, model)
    _refuse_circles(path, model)
    return model


def _refuse_broken_text(path: Path, model: onnx.ModelProto) -> None:
    """Raise if a name is not valid UTF-8, which protobuf returns as bytes."""
    tensors = (*model.graph.initializer, *model.graph.input, *model.graph.output)
    names: list[str | bytes] = [tensor.name for tensor in tensors]
    for node in model.graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    broken = next((name for name in names if isinstance(name, bytes)), None)
    if broken is not None:
        raise SrptqError(f"{path}: no valid ONNX graph, the name {broken!r} is not valid UTF-8; export it again")


def _refuse_circles(path: Path, model: onnx.ModelProto) -> None:
    """Raise if a value depends on itself, as rules follow values from node to node without end.

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


def _refuse_invalid(path: Path, model: onnx.ModelProto, error: Exception) -> None:
    """Raise if ONNX's own checker refuses the model that a rule failed on."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as fault:  # ValueError: larger than protobuf's 2 GiB
        raise SrptqError(f"{path}: no valid ONNX graph ({first_line(fault)}); export it again") from error
