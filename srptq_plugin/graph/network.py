"""An exported graph as dataflow: operations under keys that do not depend on the tracer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from srptq_plugin.graph.module_stack import path_of, root_class
from srptq_plugin.graph.operation_names import canonical_op
from srptq_plugin.quantization.quantizer_kinds import AnyQuantizer

INPUT, OUTPUT, QUANTIZER, TRANSPOSED = "input", "output", "quantizer", "conv_transpose"
IMAGE_AXES = 4
"""The number of axes of a feature map: batch, channels, height and width."""
GUARDS = "_guards_fn"
"""The submodule in which torch.export checks input sizes."""
MOVEMENT = frozenset(
    {"pixel_shuffle", "pixel_unshuffle", "split", "getitem", "slice", "select", "permute", "reshape"}
    | {"identity", "pad", "nearest", "max_pool"}
)
"""Operations that move values without changing them. Their inputs and outputs share one encoding."""
UPSAMPLING = frozenset({"pixel_shuffle", "nearest", "interpolate", "conv_transpose"})
ELEMENTWISE = frozenset({"add", "sub", "mul", "div"})
NUMBERS = int | float | torch.SymInt | torch.SymFloat | torch.SymBool
"""The types of sizes, and of numbers computed from sizes."""
NONNEGATIVE = frozenset({"relu", "sigmoid"})


@dataclass(frozen=True, order=True)
class OpKey:
    """The key of an operation: module path, kind, and the number of earlier operations of that kind in the module.

    >>> str(OpKey("body.0.conv1", "conv", 0)), str(OpKey("", "add", 1))
    ('body.0.conv1/conv', '/add.1')
    """

    path: str
    op: str
    ordinal: int = 0

    def __str__(self) -> str:
        return f"{self.path}/{self.op}" + (f".{self.ordinal}" if self.ordinal else "")


def tensor_arguments(node: fx.Node) -> list[fx.Node]:
    """Return the nodes among a node's positional arguments, with lists flattened."""
    flat: list[fx.Node] = []
    for argument in node.args:
        items = argument if isinstance(argument, (list, tuple)) else [argument]
        flat += [item for item in items if isinstance(item, fx.Node)]
    return flat


def is_pooled(node: fx.Node) -> bool:
    """Tell whether a feature map is 1 x 1 for every image size."""
    shape = getattr(node.meta.get("val"), "shape", ())
    # Other sides are symbolic in a graph for any size, so that a constant 1 is no coincidence.
    return len(shape) == IMAGE_AXES and all(isinstance(size, int) and size == 1 for size in shape[2:])


class Network:
    """An exported graph, read as operations on feature maps.

    Attributes:
        ops: The canonical operation of each node. Constants and sizes are left out.
        keys: The key of each of these nodes.
        nodes: The inverse of `keys`, by the text of the key.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.ops: dict[fx.Node, str] = {}
        self.keys: dict[fx.Node, OpKey] = {}
        self.nodes: dict[str, fx.Node] = {}
        self._root = root_class(module.graph)
        counts: dict[tuple[str, str], int] = {}
        for node in module.graph.nodes:
            self._enter(node, counts)

    def _enter(self, node: fx.Node, counts: dict[tuple[str, str], int]) -> None:
        op = _name_op(node, self.module)
        if not op:
            return
        path = "" if op in (INPUT, OUTPUT) else path_of(node, self._root)
        ordinal = counts.get((path, op), 0)
        counts[path, op] = ordinal + 1
        key = OpKey(path, op, ordinal)
        self.ops[node], self.keys[node], self.nodes[str(key)] = op, key, node

    @cached_property
    def input(self) -> fx.Node:
        """The node of the image."""
        return next(node for node, op in self.ops.items() if op == INPUT)

    @cached_property
    def positions(self) -> dict[fx.Node, int]:
        """The position of each operation in the order in which they run."""
        return {node: number for number, node in enumerate(self.ops)}

    @cached_property
    def varying(self) -> frozenset[fx.Node]:
        """The nodes that depend on the image."""
        dependent: set[fx.Node] = {self.input}
        for node in self.ops:  # in topological order, so that one pass is enough
            if any(argument in dependent for argument in tensor_arguments(node)):
                dependent.add(node)
        return frozenset(dependent)

    @cached_property
    def convs(self) -> tuple[fx.Node, ...]:
        """The convolutions, without mean shifts."""
        return tuple(node for node, op in self.ops.items() if op == "conv" and not self.is_mean_shift(node))

    @cached_property
    def transposed(self) -> tuple[fx.Node, ...]:
        """The transposed convolutions. Their weights are [inputs, outputs of a group, height, width]."""
        return tuple(node for node, op in self.ops.items() if op == TRANSPOSED)

    def name(self, node: fx.Node) -> str:
        """Return the key of a node as text."""
        return str(self.keys[node])

    def edges_in(self, node: fx.Node) -> list[tuple[int, fx.Node]]:
        """Return the feature maps that a node reads, each with its index among the tensor arguments."""
        return [(n, source) for n, source in enumerate(tensor_arguments(node)) if source in self.varying]

    def edges_out(self, node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
        """Yield each reader of a node's feature map, with the index of that tensor argument."""
        for user in node.users:
            if user in self.ops:
                yield from ((user, n) for n, source in enumerate(tensor_arguments(user)) if source is node)

    def downstream(self, sources: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the nodes that depend on any source. A source counts only if it depends on another."""
        reached, seeds = set[fx.Node](), set(sources)
        for node in self.ops:
            if any(s in reached or s in seeds for _, s in self.edges_in(node)):
                reached.add(node)
        return reached

    def upstream(self, sinks: Iterable[fx.Node]) -> set[fx.Node]:
        """Return the nodes that any sink depends on. A sink counts only if another depends on it."""
        reached, seeds = set[fx.Node](), set(sinks)
        for node in reversed(list(self.ops)):
            if any(u in reached or u in seeds for u, _ in self.edges_out(node)):
                reached.add(node)
        return reached

    def parameter(self, node: fx.Node, index: int) -> tuple[str, Tensor] | None:
        """Return the name and the detached values of the parameter or buffer that a node reads.

        Args:
            node: An operation. A quantizer between it and the parameter is looked through.
            index: The index among the tensor arguments: 1 for weights, 2 for biases.

        Returns:
            None if there is no such argument, or if it is no parameter.
        """
        if node.op == "call_module" and self.ops[node] != QUANTIZER:
            return self._layer_parameter(str(node.target), ("input", "weight", "bias")[index])
        arguments = tensor_arguments(node)
        source = arguments[index] if index < len(arguments) else node
        source = tensor_arguments(source)[0] if source.op == "call_module" else source
        if source.op != "get_attr":
            return None
        target = str(source.target)
        owner, _, leaf = target.rpartition(".")
        return target, getattr(self.module.get_submodule(owner), leaf).detach()

    def _layer_parameter(self, path: str, leaf: str) -> tuple[str, Tensor] | None:
        values = getattr(self.module.get_submodule(path), leaf, None)
        return (f"{path}.{leaf}", values.detach()) if isinstance(values, Tensor) else None

    def kind(self, node: fx.Node) -> str:
        """Return an operation by the name that rules have for it.

        That is the canonical operation, except for three that are narrower: `scale` is a product with a number,
        `global_mean` the mean of every channel, and a PReLU with one slope is a `leaky_relu`.
        """
        op = self.ops[node]
        slopes = self.parameter(node, 1) if op == "prelu" else None
        if op == "mean" and is_pooled(node) and not any(is_pooled(source) for _, source in self.edges_in(node)):
            return "global_mean"
        if slopes is not None and slopes[1].numel() == 1:
            return "leaky_relu"
        return "scale" if op == "mul" and self._is_number(node) else op

    def _is_number(self, product: fx.Node) -> bool:
        """Tell whether one factor of a product is a number, or a parameter with a single value."""
        if any(isinstance(factor, (int, float)) for factor in product.args):
            return True
        factors = (self.parameter(product, index) for index in range(len(tensor_arguments(product))))
        return any(factor is not None and factor[1].numel() == 1 for factor in factors)

    def is_mean_shift(self, conv: fx.Node) -> bool:
        """Tell whether a convolution only scales and shifts each color of an image."""
        parameter = self.parameter(conv, 1)
        if parameter is None:
            return False
        weight = parameter[1]
        colors = weight.shape[0]
        square = tuple(weight.shape) == (colors, colors, 1, 1) and colors <= 4  # noqa: PLR2004
        return square and torch.equal(weight[..., 0, 0], weight[..., 0, 0].diag().diag())

    def is_depthwise(self, conv: fx.Node) -> bool:
        """Tell whether each output channel of a convolution reads one input channel."""
        weight, image = self.parameter(conv, 1), tensor_arguments(conv)[0].meta.get("val")
        if weight is None or image is None:
            return False
        return weight[1].shape[:2] == (image.shape[1], 1) and self.groups(conv) == image.shape[1]

    def groups(self, conv: fx.Node) -> int:
        """Return the number of groups of a convolution, or 1 in a graph without shapes."""
        # The second axis of a weight holds a group's inputs, or its outputs if the convolution is transposed.
        grouped = conv if conv in self.transposed else tensor_arguments(conv)[0]
        weight, value = self.parameter(conv, 1), grouped.meta.get("val")
        return 1 if weight is None or value is None else int(value.shape[1]) // weight[1].shape[1]

    def stride(self, conv: fx.Node) -> int:
        """Return the larger stride of a convolution in a graph without layers."""
        stride: Any = conv.args[3] if len(conv.args) > 3 else conv.kwargs.get("stride", 1)  # noqa: PLR2004
        return max(stride) if isinstance(stride, (list, tuple)) else stride

    def is_nonnegative(self, node: fx.Node) -> bool:
        """Tell whether a tensor has no negative values by construction."""
        while self.ops.get(node) in MOVEMENT and tensor_arguments(node):
            node = tensor_arguments(node)[0]
        return self.ops.get(node) in NONNEGATIVE


def drop_identities(module: fx.GraphModule) -> fx.GraphModule:
    """Remove operations that change nothing (`x * 1.0`, clones, dropout) in place, as exporters do, and return it."""
    for node in list(module.graph.nodes):
        if _name_op(node, module) == "identity" and not _is_written(node):
            node.replace_all_uses_with(tensor_arguments(node)[0])
            module.graph.erase_node(node)
        elif node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default  # a view needs the layout that a dropped copy made
    module.recompile()
    return module


def drop_guards(graph: fx.Graph) -> None:
    """Remove torch.export's checks of input sizes in place."""
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == GUARDS:
            graph.erase_node(node)


def _is_written(copy: fx.Node) -> bool:
    """Tell whether an operation in place changes a copy or its original, so that the two differ."""
    users = {*copy.users, *tensor_arguments(copy)[0].users} - {copy}
    return any(isinstance(user.target, OpOverload) and str(user.target).split(".")[1].endswith("_") for user in users)


def _name_op(node: fx.Node, module: fx.GraphModule) -> str:
    """Return the canonical operation of a node, or "" if it is a constant, a size or a guard."""
    if node.op == "placeholder":
        return INPUT
    if node.op == OUTPUT:
        return OUTPUT
    if node.op == "call_module":
        return "" if node.target == GUARDS else _layer_op(module.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method") or isinstance(node.meta.get("val"), NUMBERS):
        return ""
    if _changes_nothing(node):
        return "identity"
    target: Any = node.target
    return canonical_op(target if isinstance(target, str) else _function_name(target))


def _function_name(target: Any) -> str:
    return str(target) if isinstance(target, OpOverload) else target.__name__


def _layer_op(module: nn.Module) -> str:
    """Name the operation of a called module: torch's own layers in any shape, quantizers, or somebody's own layer."""
    if isinstance(module, AnyQuantizer):
        return QUANTIZER
    layers = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules."))
    layer = next((kind for kind in layers if kind is not nn.Module), type(module))
    return canonical_op(layer.__name__.lower())


def _changes_nothing(node: fx.Node) -> bool:
    """Tell whether a node is `x * 1.0`, `x / 1.0` or a concat of one tensor. Exporters fold all of them away."""
    if str(node.target).startswith("aten.cat"):
        return len(tensor_arguments(node)) == 1
    constant = node.args[1] if len(node.args) == 2 else None  # noqa: PLR2004
    scales = str(node.target).startswith(("aten.mul", "aten.div"))
    return scales and isinstance(constant, (int, float)) and constant == 1
