"""QuantTable: what was decided for every site, with the integer weights, in one file."""

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
STATE = ":state:"
BIAS = IntGrid(32, signed=True, symmetric=True, channel_axis=0)


@dataclass(frozen=True)
class QuantTable:
    """Site to parameters, and the integers of the weights: with the float ONNX file, all that a target reads.

    `biases`: those of planned convolutions that are no longer the float network's. `norms`: the mean magnitude of each
    channel of the float network's weights, by which they are known again where the integers are of tuned ones.
    `states`: by group, those of activations' quantizers that compute their levels from each image.
    """

    plan: Plan
    qparams: Mapping[str, QParams]
    weights: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]
    biases: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    states: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict[str, Mapping[str, Tensor]])

    @classmethod
    def of(cls, prepared: PreparedGraph) -> "QuantTable":
        """What a prepared graph would export now."""
        qparams = prepared.qparams()
        sites = prepared.plan.weights
        weights = {site.name: quantize(prepared.parameter(site).detach(), qparams[site.name]) for site in sites}
        norms = {site.name: magnitudes(prepared.float_weight(site)) for site in sites}
        activations = prepared.of_role("activation")
        states = {group: each.state() for group, each in activations.items() if each.dynamic}
        return cls(prepared.plan, qparams, weights, norms, prepared.tuned_biases(), states)

    def level(self, weight: str) -> Tensor:
        """A weight at its levels, in float32."""
        return dequantize(self.weights[weight], self.qparams[weight]).float()

    def bias(self, conv: str, values: Tensor) -> tuple[Tensor, QParams] | None:
        """A convolution's bias as 32-bit integers at the scale of its products; none where it stays float.

        `values` are the float network's, which tuned ones take the place of.
        """
        if not self.plan.integer_bias or conv not in self.plan.convs:
            return None
        values = self.biases.get(conv, values)
        image, weight = (self.qparams[self.plan.by_edge[Edge(conv, index)].name] for index in (0, 1))
        qparams = QParams(image.scale * weight.scale, torch.zeros_like(weight.scale), BIAS)
        if bool((values.abs() / qparams.scale > BIAS.qmax).any()):
            return None
        return quantize(values.double(), qparams), qparams

    def simulate(self, network: fx.GraphModule) -> PreparedGraph:
        """The exported float network with these parameters at every site: no toolkit needed."""
        quantizers: dict[str, nn.Module] = {}
        for group in self.plan.groups:
            quantizer = self._quantizer(group)
            quantizer.set_mode(Mode.QUANTIZE)
            quantizer.freeze()
            quantizers[group] = quantizer.eval()
        simulated = insert_quantizers(network, self.plan, quantizers)
        read = Network(simulated)
        self._place_weights(read)
        self._place_biases(read)
        simulated.recompile()
        return PreparedGraph(simulated, self.plan)

    def _quantizer(self, group: str) -> BoundedFakeQuantize:
        """One of fixed bounds, or of the kind that the plan's qconfigs name, in the state that it was in."""
        found = self.qparams[self.plan.groups[group][0].name]
        if group not in self.states:
            return BoundedFakeQuantize(group, found.grid, bounds=found.bounds)
        qconfig = self.plan.qconfigs.get("activation")
        if qconfig is None:
            raise SrptqError(f"site {group}: its levels are computed from each image; simulate by Run.open(...)")
        quantizer = qconfig.quantizer(group, found.grid, options=qconfig.options)
        try:
            quantizer.load_state_dict(self.states[group])
        except (RuntimeError, IndexError) as error:
            raise SrptqError(f"site {group}: its state is not that of a {qconfig.quantizer.__name__}") from error
        return quantizer.requires_grad_(requires_grad=False)

    def _place_weights(self, network: Network) -> None:
        """Weights at their levels, which their quantizers leave as they are."""
        for number, site in enumerate(self.plan.weights):
            edge = site.consumers[0]
            quantizer = tensor_arguments(network.nodes[edge.consumer])[edge.input_index]
            _replace(network.module, quantizer, 0, f"srptq_weight_{number}", self.level(site.name))

    def _place_biases(self, network: Network) -> None:
        """Give each convolution a bias of its own: tuned, or the one that the file's integers stand for."""
        for number, conv in enumerate(self.plan.convs if self.plan.integer_bias else self.biases):
            found = network.parameter(network.nodes[conv], 2)
            if found:
                rounded = self.bias(conv, found[1])
                real = dequantize(*rounded).float() if rounded else self.biases.get(conv, found[1])
                _replace(network.module, network.nodes[conv], 2, f"srptq_bias_{number}", real)

    def save(self, path: Path) -> None:
        """Write one safetensors file; the plan travels in its header."""
        tensors: dict[str, Tensor] = {}
        for name, found in self.qparams.items():
            tensors[f"{name}:scale"] = found.scale.clone()
            tensors[f"{name}:zero_point"] = found.zero_point.clone()
        for name, integers in self.weights.items():
            grid = self.qparams[name].grid
            tensors[f"{name}:integers"] = integers.to(_storage(grid)).contiguous()
            tensors[f"{name}:norms"] = self.norms[name]
        for conv, bias in self.biases.items():
            tensors[f"{conv}:bias"] = bias.contiguous()
        for group, state in self.states.items():
            tensors |= {f"{group}{STATE}{key}": each.contiguous() for key, each in state.items()}
        header = json.dumps({"schema": SCHEMA, "plan": record_of(self.plan)}, sort_keys=True)
        path.write_bytes(save(tensors, metadata={"srptq": header}))

    @classmethod
    def load(cls, path: Path) -> "QuantTable":
        """Read it back, the same bits."""
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["srptq"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            schema = header.get("schema")
        except Exception as error:  # SafetensorError and OSError; of headers that were edited any other
            raise SrptqError(f"{path}: not a quant table ({first_line(error)}); run `srptq quantize` again") from error
        if schema != SCHEMA:
            told = short(str(schema))
            raise SrptqError(f"{path}: schema {told}, this version reads {SCHEMA}; run `srptq quantize` again")
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
        states = {group: _under(f"{group}{STATE}", tensors) for group in plan.groups}
        for name, found in qparams.items():
            _check_numbers(name, found)
        for name in names:
            _check_weight(name, weights[name], norms[name], qparams[name])
        return cls(plan, qparams, weights, norms, biases, {group: state for group, state in states.items() if state})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def fault_of(table: QuantTable, network: Network) -> str:
    """What of a table does not fit a network; nothing where all does."""
    if missing := missing_from(network, table.plan):
        return missing
    shapes = shapes_of(network, table.plan)
    wrong = [name for name, each in table.weights.items() if shapes.get(name) != tuple(each.shape)]
    if wrong:
        return f"{wrong[0]} is {list(table.weights[wrong[0]].shape)}, should be {list(shapes.get(wrong[0], ()))}"
    biases = {conv: network.parameter(network.nodes[conv], 2) for conv in table.biases}
    other = [conv for conv, found in biases.items() if found is None or found[1].shape != table.biases[conv].shape]
    return f"the bias of {other[0]}" if other else ""


def _check_numbers(name: str, found: QParams) -> None:
    """Refuse scales and zero points that no projection gives."""
    scale, zero_point = found.scale, found.zero_point
    if scale.shape != zero_point.shape or scale.ndim > (found.grid.channel_axis is not None):
        raise ValueError(f"{name}: scales of shape {list(scale.shape)}, zero points of {list(zero_point.shape)}")
    if scale.dtype != torch.float32 or zero_point.dtype != torch.float32:
        raise ValueError(f"{name}: scales are {scale.dtype}, zero points {zero_point.dtype}; both should be float32")
    if not (bool((scale > 0).all()) and bool(torch.isfinite(scale * found.grid.steps + zero_point).all())):
        raise ValueError(f"{name}: scales and zero points that are no positive, or no finite numbers")


def _check_weight(name: str, integers: Tensor, norms: Tensor, found: QParams) -> None:
    """Refuse integers that are not of their grid."""
    channels = integers.shape[0] if integers.ndim else 0
    if (
        not channels
        or norms.shape != (channels,)
        or found.scale.numel() not in (1, integers.shape[found.grid.channel_axis or 0])
    ):
        raise ValueError(f"{name}: integers of shape {list(integers.shape)}, {found.scale.numel()} scales")
    if int(integers.min()) < found.grid.qmin or int(integers.max()) > found.grid.qmax:
        raise ValueError(f"{name}: integers beyond {found.grid.qmin} to {found.grid.qmax}")


def magnitudes(weight: Tensor) -> Tensor:
    """The mean magnitude of each output channel.

    >>> magnitudes(torch.tensor([[1.0, -3.0], [0.0, 1.0]])).tolist()
    [2.0, 0.5]
    """
    return weight.detach().abs().flatten(1).mean(1).float()


def _replace(module: fx.GraphModule, node: fx.Node, index: int, name: str, values: Tensor) -> None:
    """Let a node read other values, without a change to modules that the float network shares."""
    module.register_parameter(name, nn.Parameter(values, requires_grad=False))
    with module.graph.inserting_before(node):
        node.update_arg(index, module.graph.get_attr(name))


def _storage(grid: IntGrid) -> torch.dtype:
    if grid.bits > 8:  # noqa: PLR2004
        return torch.int32
    return torch.int8 if grid.signed else torch.uint8
