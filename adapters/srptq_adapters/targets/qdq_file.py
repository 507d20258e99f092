"""What targets that read Q/DQ ONNX share: their runtimes, placing, and writing whole."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from srptq_plugin.deploy.qdq import Placer
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError


def installed(runtime: str) -> Any:
    """Import a runtime's package, which the extra of its name installs."""
    try:
        return import_module(runtime)
    except ImportError as error:
        raise MissingRuntimeError(runtime, f"pip install 'srptq-plugin[{runtime}]'") from error


@contextmanager
def moved_into(folder: Path) -> Generator[Path]:
    """A folder to write in; its files move to their place when all went well, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".writing-") as name:
        yield Path(name)
        for each in sorted(Path(name).iterdir()):
            os.replace(each, folder / each.name)  # noqa: PTH105


def write_qdq(network: Path, table: QuantTable, path: Path, *, behind_movement: bool = True) -> None:
    """The float ONNX file with Q/DQ at the sites of the table."""
    onnx.save(Placer(onnx.load(network), table, behind_movement=behind_movement).place(), path)
