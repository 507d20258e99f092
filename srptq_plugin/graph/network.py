"""The network as dataflow: operations of an exported graph, by keys that every tracer records alike."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from srptq_plugin.graph.module_stack import path_of, root_class
from srptq_plugin.quantization.quantizer_kinds import AnyQuantizer

INPUT, OUTPUT, QUANTIZER = "input", "output", "quantizer"
IMAGE_AXES = 4
CORNER = 64
"""The side of an image of one color. Every multiple that a network may need divides it."""
GUARDS = "_guards_fn"
"""The module that torch.export adds to check sizes."""
MOVEMENT = frozenset(
    {"pixel_shuffle", "pixel_unshuffle", "split", "getitem", "slice", "select", "permute", "reshape"}
    | {"identity", "pad", "nearest", "max_pool"}
)
"""Operations that move values and change none: their input and output have one encoding."""
UPSAMPLING = frozenset({"pixel_shuffle", "nearest", "interpolate", "conv_transpose"})
ELEMENTWISE = frozenset({"add", "sub", "mul", "div"})
NONNEGATIVE = frozenset({"relu", "sigmoid"})

_OPS = {
    "conv2d": "conv",
    "convolution": "conv",
    "conv_transpose2d": "conv_transpose",
    "split_with_sizes": "split",
    "chunk": "split",
    "tensor_split": "split",
    "unbind": "split",
    "view": "reshape",
    "flatten": "reshape",
    "unflatten": "reshape",
    "squeeze": "reshape",
    "unsqueeze": "reshape",
    "transpose": "permute",
    "contiguous": "identity",
    "clone": "identity",
    "dropout": "identity",
    "alias": "identity",
    "detach": "identity",
    "constant_pad_nd": "pad",
    "reflection_pad2d": "pad",
    "replication_pad2d": "pad",
    "channel_shuffle": "reshape",
    "max_pool2d": "max_pool",
    "adaptive_avg_pool2d": "mean",
    "upsample_nearest2d": "nearest",
    "_upsample_nearest_exact2d": "nearest",
    "upsample_bilinear2d": "interpolate",
    "upsample_bicubic2d": "interpolate",
    "convtranspose2d": "conv_transpose",
    "pixelshuffle": "pixel_shuffle",
    "pixelunshuffle": "pixel_unshuffle",
    "channelshuffle": "reshape",
    "leakyrelu": "leaky_relu",
    "upsample": "interpolate",
    "adaptiveavgpool2d": "mean",
    "maxpool2d": "max_pool",
    "batchnorm2d": "batch_norm",
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "truediv": "div",
}


@dataclass(frozen=True, order=True)
class OpKey:
    """An operation, by module path, kind and how many of the kind came before it there.

    >>> str(OpKey("body.0.conv1", "conv", 0)), str(OpKey("", "add", 1))
    ('body.0.conv1/conv', '/add.1')
    """

    path: str
    op: str
    ordinal: int = 0

    def __str__(self) -> str:
        return f"{self.path}/{self.op}" + (f".{self.ordinal}" if self.ordinal else "")


def canonical_op(name: str) -> str:
    """One word for an operation, from the name that a tracer gave it.

    >>> canonical_op("aten.conv2d.default"), canonical_op("relu_"), canonical_op("add.Tensor")
    ('conv', 'relu', 'add')
    """
    base = name.removeprefix("aten.").split(".")[0]
    base = base if base.startswith("_") else base.rstrip("_")
    return _OPS.get(base, base)


def tensor_arguments(node: fx.Node) -> list[fx.Node]:
    """The nodes among a node's positional arguments, lists taken apart."""
    flat: list[fx.Node] = []
    for argument in node.args:
        items = argument if isinstance(argument, (list, tuple)) else [argument]
        flat += [item for item in items if isinstance(item, fx.Node)]
    return flat


def is_pooled(node: fx.Node) -> bool:
    """Whether a feature map is 1 x 1 whatever the image."""
    shape = getattr(node.meta.get("val"), "shape", ())
    return len(shape) == IMAGE_AXES and all(isinstance(size, int) and size == 1 for size in shape[2:])


class Network:
    """An exported graph, read as operations on feature maps."""

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
        op = _op_of(node, self.module)
        if not op:
            return
        path = "" if op in (INPUT, OUTPUT) else path_of(node, self._root)
        ordinal = counts.get((path, op), 0)
        counts[path, op] = ordinal + 1
        key = OpKey(path, op, ordinal)
        self.ops[node], self.keys[node], self.nodes[str(key)] = op, key, node

    @cached_property
    def input(self) -> fx.Node:
        """The image."""
        return next(node for node, op in self.ops.items() if op == INPUT)

    @cached_property
    def varying(self) -> frozenset[fx.Node]:
        """The nodes that depend on the image."""
        found: set[fx.Node] = {self.input}
        for node in self.ops:
            if any(argument in found for argument in tensor_arguments(node)):
                found.add(node)
        return frozenset(found)

    @cached_property
    def convs(self) -> tuple[fx.Node, ...]:
        """The convolutions, mean shifts left out."""
        return tuple(node for node, op in self.ops.items() if op == "conv" and not self.is_mean_shift(node))

    def name(self, node: fx.Node) -> str:
        """The key of a node, as text."""
        return str(self.keys[node])

    def edges_in(self, node: fx.Node) -> list[tuple[int, fx.Node]]:
        """The feature maps that a node reads, each with its place among the tensor arguments."""
        return [(n, source) for n, source in enumerate(tensor_arguments(node)) if source in self.varying]

    def edges_out(self, node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
        """Who reads a node's feature map, and at which place."""
        for user in node.users:
            if user in self.ops:
                yield from ((user, n) for n, source in enumerate(tensor_arguments(user)) if source is node)

    def parameter(self, node: fx.Node, index: int) -> tuple[str, Tensor] | None:
        """The parameter or buffer that a node reads at a place, through a quantizer if need be, with its name."""
        if node.op == "call_module" and self.ops[node] != QUANTIZER:
            return self._own_parameter(str(node.target), ("input", "weight", "bias")[index])
        arguments = tensor_arguments(node)
        found = arguments[index] if index < len(arguments) else node
        found = tensor_arguments(found)[0] if found.op == "call_module" else found
        if found.op != "get_attr":
            return None
        target = str(found.target)
        owner, _, leaf = target.rpartition(".")
        return target, getattr(self.module.get_submodule(owner), leaf).detach()

    def _own_parameter(self, path: str, leaf: str) -> tuple[str, Tensor] | None:
        """The same for a layer that is called as a module."""
        found = getattr(self.module.get_submodule(path), leaf, None)
        return (f"{path}.{leaf}", found.detach()) if isinstance(found, Tensor) else None

    def is_mean_shift(self, conv: fx.Node) -> bool:
        """Whether a convolution only scales and shifts each color of an image."""
        found = self.parameter(conv, 1)
        if found is None:
            return False
        weight = found[1]
        colors = weight.shape[0]
        square = tuple(weight.shape) == (colors, colors, 1, 1) and colors <= 4  # noqa: PLR2004
        return square and torch.equal(weight[..., 0, 0], weight[..., 0, 0].diag().diag())

    def is_depthwise(self, conv: fx.Node) -> bool:
        """Tell whether each input channel makes one output channel, and no two products of channels are added."""
        found, read = self.parameter(conv, 1), tensor_arguments(conv)[0].meta.get("val")
        return found is not None and read is not None and found[1].shape[:2] == (read.shape[1], 1)

    def is_nonnegative(self, node: fx.Node) -> bool:
        """Whether a tensor has no negative values by construction."""
        while self.ops.get(node) in MOVEMENT and tensor_arguments(node):
            node = tensor_arguments(node)[0]
        return self.ops.get(node) in NONNEGATIVE

    def image_bounds(self, node: fx.Node, image: tuple[float, float]) -> tuple[float, float] | None:
        """The exact range of a tensor that is the image, moved, scaled or shifted; none for any other."""
        if not self._is_image(node):
            return None
        batch, colors, *sides = self.input.meta["val"].shape
        device = next((each.device for each in self.module.parameters()), None)
        corners = torch.tensor(list(product(image, repeat=int(colors))), dtype=torch.float32, device=device)
        height, width = (side if isinstance(side, int) else CORNER for side in sides)
        corners = corners[:, :, None, None].expand(-1, -1, height, width).contiguous()
        parts = corners.split(batch) if isinstance(batch, int) else [corners]
        ends = [values.aminmax() for values in (self._evaluate(node, part) for part in parts)]
        return float(min(low for low, _ in ends)), float(max(high for _, high in ends))

    def _is_image(self, node: fx.Node) -> bool:
        if node is self.input or node not in self.varying:
            return True
        op = self.ops[node]
        shift = op == "conv" and self.is_mean_shift(node)
        allowed = shift or op in ELEMENTWISE or (op in MOVEMENT and op != "max_pool") or op == "to"
        return allowed and all(self._is_image(source) for _, source in self.edges_in(node))

    def _evaluate(self, node: fx.Node, image: Tensor) -> Any:
        """Run the few nodes between the image and a tensor."""
        known: dict[fx.Node, Any] = {self.input: image}

        def value(of: fx.Node) -> Any:
            if of not in known:
                known[of] = self._run(of, value)
            return known[of]

        return value(node)

    def _run(self, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            return getattr(self.module.get_submodule(owner), leaf).detach()
        function: Any = node.target
        return function(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))


def drop_identities(module: fx.GraphModule) -> fx.GraphModule:
    """Take out, in place, what changes nothing (`x * 1.0`, clones, dropout): exporters fold it away as well."""
    for node in list(module.graph.nodes):
        if _op_of(node, module) == "identity" and not _is_written(node):
            node.replace_all_uses_with(tensor_arguments(node)[0])
            module.graph.erase_node(node)
        elif node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default  # a view needs the layout that a dropped copy made
    module.recompile()
    return module


def _is_written(copy: fx.Node) -> bool:
    """Tell whether an operation in place changes a copy or what it was made from, so that the two differ."""
    users = {*copy.users, *tensor_arguments(copy)[0].users} - {copy}
    return any(isinstance(user.target, OpOverload) and str(user.target).split(".")[1].endswith("_") for user in users)


def _op_of(node: fx.Node, module: fx.GraphModule) -> str:
    if node.op == "placeholder":
        return INPUT
    if node.op == OUTPUT:
        return OUTPUT
    if node.op == "call_module":
        return "" if node.target == GUARDS else _layer_op(module.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method") or isinstance(node.meta.get("val"), int | torch.SymInt):
        return ""
    if _changes_nothing(node):
        return "identity"
    target: Any = node.target
    return canonical_op(target if isinstance(target, str) else _function_name(target))


def _function_name(target: Any) -> str:
    return str(target) if isinstance(target, OpOverload) else target.__name__


def _layer_op(module: nn.Module) -> str:
    """The operation of a called module: torch's own layers in any shape, quantizers, or somebody's own layer."""
    if isinstance(module, AnyQuantizer):
        return QUANTIZER
    layers = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules."))
    layer = next((kind for kind in layers if kind is not nn.Module), type(module))
    return canonical_op(layer.__name__.lower())


def _changes_nothing(node: fx.Node) -> bool:
    """`x * 1.0`, `x / 1.0` and a concat of one, which exporters fold away."""
    if str(node.target).startswith("aten.cat"):
        return len(tensor_arguments(node)) == 1
    constant = node.args[1] if len(node.args) == 2 else None  # noqa: PLR2004
    scales = str(node.target).startswith(("aten.mul", "aten.div"))
    return scales and isinstance(constant, (int, float)) and constant == 1
