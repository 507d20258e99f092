"""Check of any ONNX file against the rules of a target."""

from collections.abc import Sequence
from pathlib import Path

import onnx

from srptq_plugin.errors import ArgumentError, SrptqError, first_line
from srptq_plugin.models.onnx_import.onnx_file import read_onnx
from srptq_plugin.plugins.protocols import Finding, Linter
from srptq_plugin.plugins.registry import Registry


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
    model = read_onnx(Path(path))
    try:
        return linter.lint(model)
    except SrptqError as error:
        raise SrptqError(f"{path}: no valid ONNX graph, {error}") from error
    except Exception as error:
        # A rule may fail in any way on a damaged file. If the file is valid, the rule is at fault: raise its error.
        _refuse_invalid(Path(path), model, error)
        raise


def _refuse_invalid(path: Path, model: onnx.ModelProto, error: Exception) -> None:
    """Raise if ONNX's own checker refuses the model that a rule failed on."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as fault:  # ValueError: larger than protobuf's 2 GiB
        raise SrptqError(f"{path}: no valid ONNX graph ({first_line(fault)}); export it again") from error
