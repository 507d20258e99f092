"""Q/DQ ONNX files, and the import of runtimes that read them."""

from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from srptq_plugin.deploy.qdq import Placer
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError


def import_runtime(runtime: str) -> Any:
    """Import a runtime's package. The extra of the same name installs it."""
    try:
        return import_module(runtime)
    except ImportError as error:
        raise MissingRuntimeError(runtime, f"pip install 'srptq-plugin[{runtime}]'") from error


def write_qdq(network: Path, table: QuantTable, path: Path, *, repeated: bool = True) -> None:
    """Write the float ONNX file with Q/DQ pairs at the sites of a table.

    Args:
        repeated: Put pairs also where another pair rounds the same values, such as behind a pixel shuffle.
    """
    onnx.save(Placer(onnx.load(network), table, repeated=repeated).place(), path)
