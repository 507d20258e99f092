"""Old names of torch.onnx, which exist only while MQBench is imported."""

import sys
from importlib import import_module

import pytest
import torch

from srptq_adapters.mqbench.torch_compat import HOME, moved, old_names


def visible() -> set[str]:
    return {name for name in sys.modules if name.startswith("torch.onnx.")}


def test_old_names_are_the_new_modules_inside() -> None:
    gone = moved()
    with old_names():
        for name in gone:
            leaf = name.rpartition(".")[2]
            assert import_module(name) is import_module(f"{HOME}.{leaf}")
            assert getattr(import_module(name.rpartition(".")[0]), leaf) is import_module(name)
        assert not moved()


def test_old_names_are_gone_afterwards() -> None:
    with old_names():
        pass
    before = visible()
    gone = moved()
    with old_names():
        pass
    assert (moved(), visible()) == (gone, before)
    for name in gone:
        owner, _, leaf = name.rpartition(".")
        assert not hasattr(import_module(owner), leaf)
        with pytest.raises(ModuleNotFoundError):
            import_module(name)


def test_failed_import_leaves_no_old_names() -> None:
    gone = moved()
    with pytest.raises(ImportError, match="of somebody else's"), old_names():
        raise ImportError("of somebody else's")
    assert moved() == gone


def test_existing_names_stay() -> None:
    assert "torch.onnx.symbolic_helper" not in moved()
    with old_names():
        assert "torch.onnx._internal" in sys.modules
    assert torch.onnx is sys.modules["torch.onnx"]
