"""Check of any ONNX file against the rules of a target."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnx

from srptq_plugin.errors import ArgumentError, SrptqError, first_line
from srptq_plugin.models.onnx_import.onnx_file import read_onnx
from srptq_plugin.plugins.protocols import Finding, Linter, PairLinter, Target
from srptq_plugin.plugins.registry import Registry


def lint(
    path: Path | str, target: str, registry: Registry | None = None, *, encodings: Path | None = None
) -> Sequence[Finding]:
    """Check an ONNX file, and return a finding for each violation of a rule of the target. Empty if it keeps all rules.

    Args:
        path: The file, from this project or any other exporter.
        target: The name of a target.
        registry: The plugins. By default all installed ones.
        encodings: The encodings of the file's tensors, for a target that reads them. By default the file of the same
            name that ends in .encodings.
    """
    check = _checker((registry or Registry()).target(target).load(), target, Path(path), encodings)
    model = read_onnx(Path(path))
    try:
        return check(model)
    except SrptqError as error:
        raise SrptqError(f"{path}: no valid ONNX graph, {error}") from error
    except Exception as error:
        # A rule may fail in any way on a damaged file. If the file is valid, the rule is at fault: raise its error.
        _refuse_invalid(Path(path), model, error)
        raise


def _checker(
    linter: Target, name: str, path: Path, encodings: Path | None
) -> Callable[[onnx.ModelProto], Sequence[Finding]]:
    """Return what checks a model by a target's rules, together with its encodings if the target reads them."""
    if isinstance(linter, PairLinter):
        pair = encodings or path.with_suffix(".encodings")
        if not pair.is_file():
            raise ArgumentError(
                "encodings", f"{name} checks a file and its encodings; give the file that has them", pair
            )
        return partial(linter.lint_pair, encodings=pair)
    if encodings is not None:
        raise ArgumentError("encodings", f"{name} reads no encodings; leave it out", encodings)
    if not isinstance(linter, Linter):
        raise ArgumentError("target", "has no rules for files of others; `srptq verify` runs its own", name)
    return linter.lint


def _refuse_invalid(path: Path, model: onnx.ModelProto, error: Exception) -> None:
    """Raise if ONNX's own checker refuses the model that a rule failed on."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as fault:  # ValueError: larger than protobuf's 2 GiB
        raise SrptqError(f"{path}: no valid ONNX graph ({first_line(fault)}); export it again") from error
