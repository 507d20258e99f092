"""The import of runtimes, which are optional extras."""

from importlib import import_module
from typing import Any

from srptq_plugin.errors import MissingRuntimeError


def import_runtime(runtime: str) -> Any:
    """Import a runtime's package. The extra of the same name installs it."""
    try:
        return import_module(runtime)
    except ImportError as error:
        raise MissingRuntimeError(runtime, f"pip install 'srptq-plugin[{runtime}]'") from error
