"""The old names of torch.onnx modules that moved in torch 2.9. MQBench imports them by these names."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

HOME = "torch.onnx._internal.torchscript_exporter"
OLD = ("torch.onnx._type_utils", "torch.onnx._internal.jit_utils", "torch.onnx._internal.registration")


def moved() -> list[str]:
    """Return the modules that torch no longer has where MQBench looks for them."""
    return [name for name in OLD if name not in sys.modules and find_spec(name) is None]


@contextmanager
def old_names() -> Generator[None]:
    """Make the modules importable under their old names, inside this block only.

    Afterwards nothing is left of them, so that other libraries that probe for the old names find the truth.
    """
    names = moved()
    parents = {name: import_module(name.rpartition(".")[0]) for name in names}
    for name in names:
        leaf = name.rpartition(".")[2]
        sys.modules[name] = import_module(f"{HOME}.{leaf}")
        # `import a.b` reads sys.modules, `from a import b` the attribute. MQBench uses both.
        setattr(parents[name], leaf, sys.modules[name])
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
            delattr(parents[name], name.rpartition(".")[2])
