"""Modules that run the operations of an ONNX graph under the module paths that the file tells."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.onnx_import import image_operations, shape_operations
from srptq_plugin.models.onnx_import.operation import Operation

Values = dict[str, Any]
"""The values that were computed so far, by name: feature maps, parameters and numbers."""
Path = tuple[str, ...]
"""A module path as components."""


@dataclass(frozen=True)
class Step:
    """An operation of the graph, in the module `path`. A layer is a child of that module."""

    operation: Operation
    path: Path
    layer: str = ""

    def run(self, container: nn.Module, values: Values) -> None:
        """Compute the outputs from the values, and add them."""
        if self.layer:
            values[self.operation.outputs[0]] = getattr(container, self.layer)(values[self.operation.inputs[0]])
            return
        results = compute(self.operation, [values[name] if name else None for name in self.operation.inputs])
        values.update(zip(self.operation.outputs, results, strict=False))


@dataclass(frozen=True)
class Group:
    """Steps that run in a child of a module, one after another."""

    name: str
    items: tuple["Step | Group", ...]


Items = tuple[Step | Group, ...]


class Container(nn.Module):
    """A module path of the file, whose steps run in it."""

    def forward(self, values: Values, items: Items) -> None:
        """Run steps and groups in order. Their outputs are added to the values."""
        run(self, values, items)


def run(module: nn.Module, values: Values, items: Items) -> None:
    """Run steps in a module and groups in its children. Their outputs are added to the values."""
    for item in items:
        if isinstance(item, Step):
            item.run(module, values)
        else:
            getattr(module, item.name)(values, item.items)


def compute(operation: Operation, operands: list[Any]) -> tuple[Any, ...]:
    """Return the outputs of an operation. Numbers stay numbers, unless all of them are floats."""
    function = _choose(operation, operands)
    if function is None:
        raise SrptqError(f"{operation.label} cannot be read; export the network without it, or give it as a module")
    result = function(operation, *operands)
    return result if isinstance(result, tuple) else (result,)


def fold(operation: Operation, constants: list[Any]) -> tuple[Any, ...]:
    """Return the outputs of an operation that reads constants only, as constants."""
    if _choose(operation, constants) is image_operations.FUNCTIONS.get(operation.kind):
        constants = [torch.from_numpy(np.array(c)) if _is_float(c) else c for c in constants]
    with torch.no_grad():
        return tuple(out.numpy() if isinstance(out, Tensor) else out for out in compute(operation, constants))


def _choose(operation: Operation, operands: list[Any]) -> Callable[..., Any] | None:
    numbers = [operand for operand in operands if operand is not None]
    of_shapes = all(isinstance(operand, np.ndarray) for operand in numbers) and not all(map(_is_float, numbers))
    if operation.kind == "ConstantOfShape":
        of_shapes = not any(isinstance(size, torch.SymInt) for size in numbers[0].reshape(-1))
    elif operation.kind == "Expand":
        of_shapes = of_shapes and not any(isinstance(size, torch.SymInt) for size in numbers[1].reshape(-1))
    functions: Mapping[str, Callable[..., Any]] = shape_operations.FUNCTIONS
    if of_shapes and operation.kind in functions:
        return functions[operation.kind]
    return image_operations.FUNCTIONS.get(operation.kind)


def _is_float(operand: Any) -> bool:
    return isinstance(operand, np.ndarray) and operand.dtype.kind == "f"


def nest(steps: list[Step], depth: int = 0) -> Items:
    """Group consecutive steps by the components of their paths, from this depth on."""
    return tuple(_iter_nested(steps, depth))


def _iter_nested(steps: list[Step], depth: int) -> Iterator[Step | Group]:
    for component, members in groupby(steps, lambda step: step.path[depth : depth + 1]):
        if component:
            yield Group(component[0], nest(list(members), depth + 1))
        else:
            yield from members


def child(root: nn.Module, path: Path) -> nn.Module:
    """Return the container at a path. Missing ones are made."""
    for name in path:
        if name not in dict(root.named_children()):
            root.add_module(name, Container())
        root = root.get_submodule(name)
    return root


def to_component(text: str) -> str:
    """Return a name that a module may have.

    >>> to_component("onnx::Conv_12"), to_component("float")
    ('onnx__Conv_12', 'float_')
    """
    name = re.sub(r"\W", "_", text)
    return f"{name}_" if hasattr(Container, name) else name
