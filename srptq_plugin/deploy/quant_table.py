"""QuantTable: the quantization parameters of every site and the integer weights, in one file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, fx, nn

from srptq_plugin.errors import SrptqError, first_line, short
from srptq_plugin.graph.network import Network, tensor_arguments
from srptq_plugin.planning.plan import Edge, Plan
from srptq_plugin.planning.prepared_graph import PreparedGraph, insert_quantizers
from srptq_plugin.planning.serialization import missing_from, plan_of, record_of, shapes_of
from srptq_plugin.quantization.grid import IntGrid, QParams, dequantize, quantize
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode

SCHEMA = 1
"""The version of the file format."""
STATE = ":state:"
"""Between the group and the key in the name of a tensor of `states`."""
ROTATION = ":rotation"
BIAS = IntGrid(32, signed=True, symmetric=True, channel_axis=0)


@dataclass(frozen=True)
class QuantTable:
    """The quantization parameters of each site: all that a target reads besides the float ONNX file.

    Attributes:
        plan: The sites.
        qparams: Scale, zero point and grid, by site.
        weights: The integers, by site.
        norms: The mean magnitude of each channel of the float weights, by site. They identify the channels of weights
            that were tuned.
        biases: The biases that differ from the float network's, by convolution.
        states: The states of dynamic quantizers, which compute their levels from each image, by group.
        rotations: The matrices of rotated streams, by the first convolution that writes each.
    """

    plan: Plan
    qparams: Mapping[str, QParams]
    weights: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    biases: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    states: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, Tensor]])
    rotations: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @classmethod
    def of(cls, prepared: PreparedGraph) -> "QuantTable":
        """Return the table of a prepared graph in its current state."""
        qparams = prepared.qparams()
        sites = prepared.plan.weights
        weights = {site.name: quantize(prepared.parameter(site).detach(), qparams[site.name]) for site in sites}
        norms = {site.name: magnitudes(prepared.float_weight(site), site.grid) for site in sites}
        activations = prepared.of_role("activation")
        states = {group: quantizer.state() for group, quantizer in activations.items() if quantizer.dynamic}
        return cls(prepared.plan, qparams, weights, norms, prepared.tuned_biases(), states)

    def level(self, weight: str) -> Tensor:
        """Return a dequantized weight in float32."""
        return dequantize(self.weights[weight], self.qparams[weight]).float()

    def bias(self, conv: str, values: Tensor) -> tuple[Tensor, QParams] | None:
        """Return a convolution's bias as 32-bit integers, or None if it stays float.

        Its scale is the scale of the products, so that kernels add it to their sums without a conversion.

        Args:
            conv: The key of the convolution.
            values: The float network's bias. A tuned one takes its place.
        """
        if not self.plan.integer_bias or conv not in self.plan.convs:
            return None
        values = self.biases.get(conv, values)
        image, weight = (self.qparams[self.plan.by_edge[Edge(conv, index)].name] for index in (0, 1))
        qparams = QParams(image.scale * weight.scale, torch.zeros_like(weight.scale), BIAS)
        # A dead input has a tiny scale, at which a bias does not fit 32 bits.
        if bool((values.abs() / qparams.scale > BIAS.qmax).any()):
            return None
        return quantize(values.double(), qparams), qparams

    def simulate(self, network: fx.GraphModule) -> PreparedGraph:
        """Return the exported float network with these parameters at every site. No toolkit is needed.

        Args:
            network: The graph of the float network. It stays as it is.
        """
        quantizers: dict[str, nn.Module] = {}
        for group in self.plan.groups:
            quantizer = self._build_quantizer(group)
            quantizer.set_mode(Mode.QUANTIZE)
            quantizer.freeze()
            quantizers[group] = quantizer.eval()
        simulated = insert_quantizers(network, self.plan, quantizers)
        nodes = Network(simulated)
        self._place_weights(nodes)
        self._place_biases(nodes)
        simulated.recompile()
        return PreparedGraph(simulated, self.plan)

    def _build_quantizer(self, group: str) -> BoundedFakeQuantize:
        """Build a quantizer of fixed bounds, or restore a dynamic one of the class that the plan's qconfig names."""
        qparams = self.qparams[self.plan.groups[group][0].name]
        if group not in self.states:
            return BoundedFakeQuantize(group, qparams.grid, bounds=qparams.bounds)
        qconfig = self.plan.qconfigs.get("activation")
        if qconfig is None:
            raise SrptqError(f"site {group}: its levels are computed from each image; simulate by Run.open(...)")
        quantizer = qconfig.quantizer(group, qparams.grid, options=qconfig.options)
        try:
            quantizer.load_state_dict(self.states[group])
        except (RuntimeError, IndexError) as error:
            raise SrptqError(f"site {group}: its state does not fit a {qconfig.quantizer.__name__}") from error
        return quantizer.requires_grad_(requires_grad=False)

    def _place_weights(self, network: Network) -> None:
        """Replace weights by their levels. Quantizing them again changes no bit."""
        for number, site in enumerate(self.plan.weights):
            edge = site.consumers[0]
            quantizer = tensor_arguments(network.nodes[edge.consumer])[edge.input_index]
            _replace(network.module, quantizer, 0, f"srptq_weight_{number}", self.level(site.name))

    def _place_biases(self, network: Network) -> None:
        """Replace biases: by the dequantized integers of the exported file, or by tuned float ones."""
        for number, conv in enumerate(self.plan.convs if self.plan.integer_bias else self.biases):
            parameter = network.parameter(network.nodes[conv], 2)
            if parameter:
                rounded = self.bias(conv, parameter[1])
                real = dequantize(*rounded).float() if rounded else self.biases.get(conv, parameter[1])
                _replace(network.module, network.nodes[conv], 2, f"srptq_bias_{number}", real)

    def save(self, path: Path) -> None:
        """Write one safetensors file, with the plan in its header."""
        tensors: dict[str, Tensor] = {}
        # Sites of one group share their tensors, which safetensors refuses to store twice. Hence the clones.
        for name, qparams in self.qparams.items():
            tensors[f"{name}:scale"] = qparams.scale.clone()
            tensors[f"{name}:zero_point"] = qparams.zero_point.clone()
        for name, integers in self.weights.items():
            grid = self.qparams[name].grid
            tensors[f"{name}:integers"] = integers.to(_storage(grid)).contiguous()
            tensors[f"{name}:norms"] = self.norms[name]
        for conv, bias in self.biases.items():
            tensors[f"{conv}:bias"] = bias.contiguous()
        for group, state in self.states.items():
            tensors |= {f"{group}{STATE}{key}": values.contiguous() for key, values in state.items()}
        tensors |= {f"{conv}{ROTATION}": matrix for conv, matrix in self.rotations.items()}
        header = json.dumps({"schema": SCHEMA, "plan": record_of(self.plan)}, sort_keys=True)
        path.write_bytes(save(tensors, metadata={"srptq": header}))

    @classmethod
    def load(cls, path: Path) -> "QuantTable":
        """Read a file that `save` wrote, bit for bit."""
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["srptq"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            schema = header.get("schema")
        except Exception as error:  # SafetensorError, OSError. An edited header can raise anything.
            raise SrptqError(f"{path}: not a quant table ({first_line(error)}); run `srptq quantize` again") from error
        if schema != SCHEMA:
            version = short(str(schema))
            raise SrptqError(f"{path}: schema {version}, this version reads {SCHEMA}; run `srptq quantize` again")
        try:
            return cls._assembled(plan_of(header["plan"]), tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise SrptqError(
                f"{path}: not a whole quant table ({first_line(error)}); run `srptq quantize` again"
            ) from error

    @classmethod
    def _assembled(cls, plan: Plan, tensors: Mapping[str, Tensor]) -> "QuantTable":
        qparams = {
            site.name: QParams(tensors[f"{site.name}:scale"], tensors[f"{site.name}:zero_point"], site.grid)
            for site in plan.sites
        }
        names = [site.name for site in plan.weights]
        weights = {name: tensors[f"{name}:integers"].to(torch.int32) for name in names}
        norms = {name: tensors[f"{name}:norms"] for name in names}
        biases = {conv: tensors[f"{conv}:bias"] for conv in plan.convs if f"{conv}:bias" in tensors}
        states = {group: _select(f"{group}{STATE}", tensors) for group in plan.groups}
        rotations = {key.removesuffix(ROTATION): values for key, values in tensors.items() if key.endswith(ROTATION)}
        for name, parameters in qparams.items():
            _check_numbers(name, parameters)
        for name in names:
            _check_weight(name, weights[name], norms[name], qparams[name])
        return cls(
            plan, qparams, weights, norms, biases, {group: state for group, state in states.items() if state}, rotations
        )


def _select(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}


def fault_of(table: QuantTable, network: Network) -> str:
    """Return the first part of a table that does not fit a network, or "" if all parts fit."""
    if missing := missing_from(network, table.plan):
        return missing
    shapes = shapes_of(network, table.plan)
    wrong = [name for name, integers in table.weights.items() if shapes.get(name) != tuple(integers.shape)]
    if wrong:
        return f"{wrong[0]} is {list(table.weights[wrong[0]].shape)}, should be {list(shapes.get(wrong[0], ()))}"
    biases = {conv: network.parameter(network.nodes[conv], 2) for conv in table.biases}
    unfit = [conv for conv, bias in biases.items() if bias is None or bias[1].shape != table.biases[conv].shape]
    return f"the bias of {unfit[0]}" if unfit else ""


def _check_numbers(name: str, qparams: QParams) -> None:
    """Raise on scales and zero points that no projection gives."""
    scale, zero_point = qparams.scale, qparams.zero_point
    if scale.shape != zero_point.shape or scale.ndim > (qparams.grid.channel_axis is not None):
        raise ValueError(f"{name}: scales of shape {list(scale.shape)}, zero points of {list(zero_point.shape)}")
    if scale.dtype != torch.float32 or zero_point.dtype != torch.float32:
        raise ValueError(f"{name}: scales are {scale.dtype}, zero points {zero_point.dtype}; both should be float32")
    if not (bool((scale > 0).all()) and bool(torch.isfinite(scale * qparams.grid.steps + zero_point).all())):
        raise ValueError(f"{name}: scales should be positive, and scales and zero points finite")


def _check_weight(name: str, integers: Tensor, norms: Tensor, qparams: QParams) -> None:
    """Raise on integers of another shape than their scales, or beyond their grid."""
    grid = qparams.grid
    axis = grid.channel_axis or 0
    channels = integers.shape[axis] if integers.ndim > axis else 0
    if not channels or norms.shape != (channels,) or qparams.scale.numel() not in (1, channels):
        raise ValueError(f"{name}: integers of shape {list(integers.shape)}, {qparams.scale.numel()} scales")
    if int(integers.min()) < grid.qmin or int(integers.max()) > grid.qmax:
        raise ValueError(f"{name}: integers beyond {grid.qmin} to {grid.qmax}")


def magnitudes(weight: Tensor, grid: IntGrid) -> Tensor:
    """Return the mean magnitude of each channel along a grid's axis, or along the first.

    >>> weight = torch.tensor([[1.0, -3.0], [0.0, 1.0]])
    >>> magnitudes(weight, IntGrid(8)).tolist(), magnitudes(weight, IntGrid(8, channel_axis=1)).tolist()
    ([2.0, 0.5], [0.5, 2.0])
    """
    return weight.detach().abs().transpose(0, grid.channel_axis or 0).flatten(1).mean(1).float()


def _replace(module: fx.GraphModule, node: fx.Node, index: int, name: str, values: Tensor) -> None:
    """Let a node read other values. The module that owns the old ones is shared with the float network."""
    module.register_parameter(name, nn.Parameter(values, requires_grad=False))
    with module.graph.inserting_before(node):
        node.update_arg(index, module.graph.get_attr(name))


def _storage(grid: IntGrid) -> torch.dtype:
    if grid.bits > 8:  # noqa: PLR2004
        return torch.int32
    return torch.int8 if grid.signed else torch.uint8
