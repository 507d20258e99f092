"""A user's own network: `package.module:factory`, called with the arguments of `--model-args`."""

import importlib
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.models.checkpoint import load_into
from srptq_plugin.models.model_record import UNIT, Request, SRNetwork


def build_from(path: str, request: Request) -> SRNetwork:
    """Import the factory, the working directory included, call it, and load the weights if there are any."""
    with _importable(Path.cwd()):
        module = _called(path, _found(path), request)
    if request.state is not None:
        load_into(module, request.state)
    return SRNetwork(module, request.input_range or UNIT)


@contextmanager
def _importable(folder: Path) -> Generator[None]:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _found(path: str) -> Callable[..., object]:
    name, _, attribute = path.partition(":")
    if not name or not attribute:
        raise SrptqError(f"model {path}: give package.module:factory")
    try:
        found = getattr(importlib.import_module(name), attribute, None)
    except Exception as error:
        raise SrptqError(
            f"model {path}: importing {name} failed ({_brief(error)}); run where it can be imported from, or install it"
        ) from error
    if not callable(found):
        what = f"has no {attribute}" if found is None else f"has {attribute}, which cannot be called"
        raise SrptqError(f"model {path}: {name} {what}; give a function or class that returns the network")
    return found


def _called(path: str, factory: Callable[..., object], request: Request) -> nn.Module:
    arguments = dict(request.arguments)
    try:
        module = factory(**arguments)
    except Exception as error:
        raise SrptqError(
            f"model {path}: the factory failed when called with {arguments} ({_brief(error)}); check its arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise SrptqError(f"model {path}: the factory returned a {type(module).__name__}, not a torch.nn.Module")
    return module


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
