"""A user's own network, built by calling `package.module:factory` with arguments."""

import importlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.models.checkpoint import load_into
from srptq_plugin.models.model_record import UNIT, Arguments, Range, SRNetwork, State
from srptq_plugin.models.without_cuda import kept_on_cpu


def build_from(
    path: str,
    arguments: Arguments,
    state: State | None = None,
    input_range: Range | None = None,
    *,
    allow_missing: bool = False,
) -> SRNetwork:
    """Import and call a factory, then load the weights, if any. The working directory is importable meanwhile.

    Args:
        path: The factory as `package.module:name`.
        arguments: Its arguments.
        state: The weights.
        input_range: The levels of black and white, by default 0 and 1.
        allow_missing: Whether keys of the weights may be missing or unknown.
    """
    with _importable(Path.cwd()):
        module = _call(path, _import_factory(path), dict(arguments))
    if state is not None:
        load_into(module, state, allow_missing=allow_missing)
    return SRNetwork(module, input_range or UNIT)


@contextmanager
def _importable(folder: Path) -> Generator[None]:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _import_factory(path: str) -> Callable[..., object]:
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise SrptqError(f"model {path}: give package.module:factory")
    try:
        factory = getattr(importlib.import_module(name), attribute, None)
    except Exception as error:
        raise SrptqError(
            f"model {path}: importing {name} failed ({_brief(error)}); run where it can be imported from, or install it"
        ) from error
    if not callable(factory):
        fault = f"has no {attribute}" if factory is None else f"has {attribute}, which cannot be called"
        raise SrptqError(f"model {path}: {name} {fault}; give a function or class that returns the network")
    return factory


def _call(path: str, factory: Callable[..., object], arguments: dict[str, Any]) -> nn.Module:
    try:
        with kept_on_cpu(path):
            module = factory(**arguments)
    except Exception as error:
        raise SrptqError(
            f"model {path}: the factory failed when called with {arguments} ({_brief(error)}); check its arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise SrptqError(f"model {path}: the factory returned a {type(module).__name__}; return a torch.nn.Module")
    return module


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
