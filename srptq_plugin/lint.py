"""lint(): an ONNX file, ours or anybody's, against the rules of a target."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from srptq_plugin.contracts import Finding, Linter
from srptq_plugin.errors import SrptqError
from srptq_plugin.registry import Registry


def lint(path: Path | str, target: str, registry: Registry | None = None) -> Sequence[Finding]:
    """What a target would stumble over, rule by rule; nothing found means that it keeps them all."""
    known = (registry or Registry()).target(target)
    linter = known.load()
    if not isinstance(linter, Linter):
        raise SrptqError(f"--target {target}: it has no rules for files of others; `srptq verify` runs its own")
    return linter.lint(_read(Path(path)))


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, ValueError) as error:
        raise SrptqError(f"{path}: cannot be read as ONNX ({str(error).splitlines()[0]})") from error
    if not model.graph.node:
        raise SrptqError(f"{path}: no ONNX graph; give a file that an exporter wrote")
    return model
