"""Parts of torch.onnx that moved in torch 2.9, under the names by which MQBench imports them, while it does."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

HOME = "torch.onnx._internal.torchscript_exporter"
OLD = ("torch.onnx._type_utils", "torch.onnx._internal.jit_utils", "torch.onnx._internal.registration")


def moved() -> list[str]:
    """Which of the modules are no longer where MQBench looks for them."""
    return [name for name in OLD if name not in sys.modules and find_spec(name) is None]


@contextmanager
def old_names() -> Generator[None]:
    """Make them importable under their old names, inside this block only."""
    names = moved()
    parents = {name: import_module(name.rpartition(".")[0]) for name in names}
    for name in names:
        leaf = name.rpartition(".")[2]
        sys.modules[name] = import_module(f"{HOME}.{leaf}")
        setattr(parents[name], leaf, sys.modules[name])
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
            delattr(parents[name], name.rpartition(".")[2])
