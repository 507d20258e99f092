"""The import of runtimes, which are optional extras."""

from importlib import import_module
from typing import Any

from srptq_plugin.errors import MissingRuntimeError


def import_runtime(package: str, extra: str | None = None) -> Any:
    """Import a runtime's package. An extra installs it, by default one of the same name."""
    try:
        return import_module(package)
    except ImportError as error:
        runtime = extra or package
        raise MissingRuntimeError(runtime, f"pip install 'srptq-plugin[{runtime}]'") from error
