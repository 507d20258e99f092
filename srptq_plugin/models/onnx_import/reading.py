"""A network from an ONNX file as a module, with the file's module paths and names of weights."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from pathlib import Path as FilePath
from typing import Any

from onnx import ModelProto
from onnx.inliner import inline_local_functions
from torch import nn

from srptq_plugin.deploy.onnx_export import metadata_of
from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import ASSUMED, LEVELS, UNIT, Arguments, Range, SRNetwork
from srptq_plugin.models.onnx_import.container import Path, Step, child, nest, to_component
from srptq_plugin.models.onnx_import.graph import OnnxGraph, Port
from srptq_plugin.models.onnx_import.layers import build_layer, to_parameter
from srptq_plugin.models.onnx_import.network import ImportedNetwork
from srptq_plugin.models.onnx_import.onnx_file import read_onnx
from srptq_plugin.models.onnx_import.operation import Operation
from srptq_plugin.models.onnx_import.paths import owner_of, split

SETTINGS = frozenset({"Clip", "Pad", "Resize", "Upsample"})
"""Operations whose float constants are settings, and no parameters."""


@dataclass(frozen=True)
class OnnxSource:
    """A network from a file.

    Attributes:
        network: The network.
        range_origin: What its input range was taken from.
        size: The size of its images if the file declares one.
    """

    network: SRNetwork
    range_origin: str
    size: Size | None


def load_onnx(path: FilePath, arguments: Arguments) -> OnnxSource:
    """Read the network of an ONNX file.

    Args:
        path: The file.
        arguments: Values of inputs besides the image, by name.

    Raises:
        SrptqError: the file is no ONNX graph, is quantized already, or has operations that are not read.
    """
    model = read_onnx(path)
    try:
        graph = OnnxGraph.read(inline_local_functions(model) if model.functions else model, arguments)
        input_range, origin = _suggest_range(model, graph.image)
        network = SRNetwork(_Builder(graph).build(), input_range)
    except SrptqError as error:
        raise SrptqError(f"{path}: {error}") from error
    except Exception as error:  # attributes, constants and metadata of a damaged file can be wrong in any way
        raise SrptqError(f"{path}: no valid ONNX graph ({first_line(error)}); export it again") from error
    return OnnxSource(network, origin, _size(graph.image))


def _suggest_range(model: ModelProto, image: Port) -> tuple[Range, str]:
    """Return the levels of black and white, and what they are taken from."""
    known: Any = metadata_of(model).get("input_range")
    if isinstance(known, list):
        black, white = known
        return (float(black), float(white)), "from its metadata"
    if not image.floats:
        return LEVELS, "as its image is of integers"
    return UNIT, ASSUMED


def _size(image: Port) -> Size | None:
    """Return the size that the file declares, for one image, or None if a side may have any length."""
    if len(image.sides) != IMAGE_AXES:
        return None
    _, *sides = [image.sides[axis] for axis in ((0, 3, 1, 2) if image.channels_last else range(IMAGE_AXES))]
    channels, height, width = sides
    return (1, channels, height, width) if channels and height and width else None


class _Builder:
    """Builds the module of a graph."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph, self._network = graph, ImportedNetwork(graph)
        self._owners: dict[Path, set[Hashable]] = defaultdict(set)
        """The identities of the operations in each module."""
        self._layers: set[Path] = set()
        self._tied: dict[Hashable, nn.Parameter] = {}
        self._parameter_paths: dict[str, str] = {}

    def build(self) -> ImportedNetwork:
        """Return the module in evaluation mode."""
        layers = [build_layer(operation, self._weights(operation)) for operation, _ in self._graph.operations]
        paths = [
            path or self._owner(operation) if layer is not None else path
            for layer, (operation, path) in zip(layers, self._graph.operations, strict=True)
        ]
        for (operation, _), path in zip(self._graph.operations, paths, strict=True):
            self._owners[path].add(_identity(operation))
            for depth in range(len(path)):
                self._owners[path[:depth]].add("container")
        steps = [
            Step(operation, path) if layer is None else self._place(operation, path, layer)
            for layer, path, (operation, _) in zip(layers, paths, self._graph.operations, strict=True)
        ]
        for step in steps:
            child(self._network, step.path)
        for step in steps:
            self._register(step)
        read = {name for step in steps if not step.layer for name in step.operation.inputs}
        constants = {name: value for name, value in self._graph.constants.items() if name in read}
        self._network.complete(nest(steps), constants, self._parameter_paths)
        return self._network.eval()

    def _weights(self, operation: Operation) -> list[Any]:
        """Return the constants besides the first input, or none if one of them depends on the image."""
        names = operation.inputs[1:]
        if any(name and name not in self._graph.constants for name in names):
            return []
        return [self._graph.constants[name] if name else None for name in names]

    def _owner(self, operation: Operation) -> Path:
        return owner_of(operation.inputs[1]) or (to_component(operation.name),)

    def _place(self, operation: Operation, path: Path, layer: nn.Module) -> Step:
        """Add a layer at its path, or below it if other operations are traced there too."""
        if self._owners[path] != {_identity(operation)}:
            path = *path, self._free_name(path, operation)
        parent = child(self._network, path[:-1])
        if path[-1] not in dict(parent.named_children()):
            for name, parameter in layer.named_parameters():
                tied = self._tied.setdefault((operation.kind, operation.inputs[1:], name), parameter)
                setattr(layer, name, tied)
            parent.add_module(path[-1], layer)
            self._layers.add(path)
        return Step(operation, path[:-1], path[-1])

    def _free_name(self, path: Path, operation: Operation) -> str:
        """Return a name in a container for one of several layers. It is the same for the same layer."""
        base, identity = operation.kind.lower(), _identity(operation)
        names = (f"{base}_{number}" if number else base for number in count())
        name = next(name for name in names if self._owners[*path, name] <= {identity})
        self._owners[*path, name].add(identity)
        return name

    def _register(self, step: Step) -> None:
        """Make parameters of the float constants that an operation reads, except single numbers."""
        if step.layer or step.operation.kind in SETTINGS:
            return
        for name in step.operation.inputs:
            value = self._graph.constants.get(name)
            if value is None or value.dtype.kind != "f" or value.size == 1 or name in self._parameter_paths:
                continue
            path = split(name)
            owner, leaf = path[:-1], path[-1]
            if any(path[:depth] in self._layers for depth in range(1, len(path))):
                owner, leaf = (), to_component(name)
            parent = child(self._network, owner)
            while hasattr(parent, leaf):
                leaf += "_"
            parent.register_parameter(leaf, to_parameter(value))
            self._parameter_paths[name] = ".".join((*owner, leaf))


def _identity(operation: Operation) -> Hashable:
    """Return a key that two operations share if one layer computes both."""
    attributes = tuple((name, repr(value)) for name, value in sorted(operation.attributes.items()))
    weights = operation.inputs[1:]
    return (operation.kind, weights, attributes) if weights else operation.outputs
