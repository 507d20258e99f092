"""One operation of an ONNX graph, with its attributes as Python values."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, helper, numpy_helper

Numbers = NDArray[Any]
"""A constant, or sizes of images as Python integers and as torch's symbolic integers."""


@dataclass(frozen=True)
class Operation:
    """An operation.

    Attributes:
        kind: ONNX's name of it.
        name: The node's name, or its first output.
        opset: The version of the operations.
        inputs: The names of the values that it reads. "" stands for one left out.
        outputs: The names of the values that it writes.
        attributes: Its attributes. Tensors are arrays, and text is decoded.
    """

    kind: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def read(cls, node: NodeProto, opset: int) -> "Operation":
        """Read a node of a file with this opset."""
        attributes = {attribute.name: _read_attribute(attribute) for attribute in node.attribute}
        name = node.name or next(iter(node.output), "")
        return cls(node.op_type, name, opset, tuple(node.input), tuple(node.output), attributes)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or the default if the node has none of this name."""
        return self.attributes.get(name, default)

    @cached_property
    def label(self) -> str:
        """The kind and the name, for messages."""
        return f"{self.kind} ({self.name})"


def _read_attribute(attribute: AttributeProto) -> Any:
    value: Any = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return np.asarray(value).tolist() if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value
