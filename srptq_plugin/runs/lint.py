"""lint(): an ONNX file, ours or anybody's, against the rules of a target."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx

from srptq_plugin.errors import ArgumentError, SrptqError, first_line
from srptq_plugin.plugins.protocols import Finding, Linter
from srptq_plugin.plugins.registry import Registry

SHOWN = 6
"""Values of a circle that are named."""


def lint(path: Path | str, target: str, registry: Registry | None = None) -> Sequence[Finding]:
    """What a target would stumble over, rule by rule; nothing found means that it keeps them all."""
    known = (registry or Registry()).target(target)
    linter = known.load()
    if not isinstance(linter, Linter):
        raise ArgumentError("target", "has no rules for files of others; `srptq verify` runs its own", target)
    model = _read(Path(path))
    try:
        return linter.lint(model)
    except SrptqError as error:
        raise SrptqError(f"{path}: no valid ONNX graph, {error}") from error
    except Exception as error:
        _refuse_invalid(Path(path), model, error)
        raise


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's own among them, and those of data in other files
        raise SrptqError(f"{path}: cannot be read as ONNX ({first_line(error)})") from error
    if not model.graph.node:
        raise SrptqError(f"{path}: no ONNX graph; give a file that an exporter wrote")
    _refuse_broken_text(path, model)
    _refuse_circles(path, model)
    return model


def _refuse_broken_text(path: Path, model: onnx.ModelProto) -> None:
    """Protobuf gives bytes for a name that is no text."""
    names: list[str | bytes] = [
        each.name for each in (*model.graph.initializer, *model.graph.input, *model.graph.output)
    ]
    for node in model.graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    broken = next((name for name in names if isinstance(name, bytes)), None)
    if broken is not None:
        raise SrptqError(f"{path}: no valid ONNX graph, the name {broken!r} is no text; export it again")


def _refuse_circles(path: Path, model: onnx.ModelProto) -> None:
    """Rules follow values from node to node, which has to end. Of two nodes with one output, both count."""
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
    """What no rule can read is the file's fault where ONNX's own checker says so."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as fault:  # ValueError: more than protobuf can hold
        raise SrptqError(f"{path}: no valid ONNX graph ({first_line(fault)}); export it again") from error
