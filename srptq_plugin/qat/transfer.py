"""The copy of a run's network into a model that a toolkit prepared: scaled channels, tuned weights, tuned biases."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, fx

from srptq_plugin.calibration.equalization.scales import output_scales
from srptq_plugin.calibration.rotation.streams import Streams, streams_of
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import FLOAT, float_parameters
from srptq_plugin.qat.folding import Values, convolutions, weight_name
from srptq_plugin.quantization.grid import dequantize, quantize
from srptq_plugin.runs.run import Run

STREAMS = "srptq_streams"
"""The key of the matrices of a prepared model's streams in its `meta`."""
CLOSE = 1e-4
"""The largest error of a parameter, relative to the largest magnitude of its channel. Folding rounds in float32."""


class Transfer:
    """The network of a run, in the parameters of a prepared model."""

    def __init__(self, prepared: fx.GraphModule, run: Run) -> None:
        self.prepared, self.run = prepared, run
        self.network, model = Network(run.network), Network(prepared)
        self.streams = Streams(self.network)
        self.float = {name: value.detach().cpu() for name, value in float_parameters(prepared).items()}
        unfolded = {name for name, _ in run.network.named_parameters()}
        self.convolutions = {conv.weight: conv for conv in convolutions(model, self.float, unfolded)}
        self.values = self._float_values()
        self._sites = {site.source: site for site in run.table.plan.weights}
        self._readers: dict[str, list[str]] = defaultdict(list)
        for conv in (*self.network.convs, *self.network.transposed):
            self._readers[weight_name(self.network, conv)].append(self.network.name(conv))

    def apply(self) -> None:
        """Set the model's parameters in place. The run's float network becomes the teacher of later training.

        Raises:
            SrptqError: the model is not the run's network, even with rotated and scaled channels. Nothing has
                changed then.
        """
        factors = self.factors  # This checks the whole network before anything changes.
        tuned, exact = dict(self.float), dict(self.float)
        for name, values in self.values.items():
            convolution, factor = self.convolutions[name], factors[name]
            exact |= convolution.unfold(values, self.float, factor)
            tuned |= convolution.unfold(self._tuned(name, values), self.float, factor)
        for name, value in tuned.items():
            self.prepared.get_parameter(name).data.copy_(value)
        self.prepared.meta |= {FLOAT: exact, STREAMS: self._stream_matrices()}

    def divisor(self, weight: str) -> Tensor | None:
        """Return the divisor that makes the run's bounds of a weight fit the model's own weight, or `None` for 1."""
        convolution = self.convolutions[weight]
        if convolution.folded is None or convolution.folded.fused:
            return None  # The quantizer sees the folded weight, as the run's does.
        return convolution.scale(self.factors[weight])

    @cached_property
    def factors(self) -> dict[str, Tensor]:
        """The divisor of each output channel of each convolution, by the name of the weight.

        Raises:
            SrptqError: the model is not the run's network, even with rotated and scaled channels.
        """
        self._check_shapes()
        own = {name: self.convolutions[name].values(self.float) for name in self.values}
        factors = self._explain(own)
        if isinstance(factors, str) and self.matrices is not None:
            factors = self._explain(self._rotated(own, self.matrices))
        if isinstance(factors, str):
            raise self._refusal(factors)
        return factors

    def _explain(self, before: Mapping[str, Values]) -> dict[str, Tensor] | str:
        """Return the divisors that give the run's convolutions, or the first difference that they do not explain."""
        # No run records its factors. They are recovered from the weights, in the order of the network: the factors of
        # a layer's inputs are the divisors of the layers before.
        scales = output_scales(self.network, {name: values.weight for name, values in before.items()})
        unscaled = torch.ones(1), torch.ones(1)
        for name, values in self.values.items():
            multiplied, divided = scales.get(name, unscaled)
            own = before[name]
            if not _is_close(own.weight * multiplied, values.weight):
                return f"site {name}: differs from the run's, even with rotated and scaled channels"
            if not _is_close(_or_zero(own.bias) / divided, _or_zero(values.bias)):
                return f"site {name}: its bias differs from the run's, even with rotated and scaled channels"
        return {name: scales.get(name, unscaled)[1] for name in self.values}

    @cached_property
    def matrices(self) -> list[Tensor] | None:
        """The matrices that make the model's streams the run's, up to factors. None if neither was rotated."""
        new, old = self.run.table.rotations, self.prepared.meta.get(STREAMS, {})
        if not new and not old:
            return None
        pairs = zip(self.streams.names, self.streams.sizes, strict=True)
        eyes = {name: torch.eye(size, dtype=torch.float64) for name, size in pairs}
        return [new.get(name, eye) @ torch.linalg.inv(old.get(name, eye)) for name, eye in eyes.items()]

    def _rotated(self, values: Mapping[str, Values], matrices: Sequence[Tensor]) -> dict[str, Values]:
        rotated = dict(values)
        for conv in self.streams.convolutions:
            name = weight_name(self.network, conv)
            folded = self.convolutions[name].folded
            if folded is not None and folded.gamma and streams_of(self.streams.layout(conv)):
                raise SrptqError(
                    f"{self.run.folder}: site {name} was rotated, and the statistics of its batch norm are of the "
                    "channels before; quantize with `rotate: false`, or fold the batch norms first"
                )
            rotated[name] = Values(*self.streams.rotated(conv, values[name].weight, values[name].bias, matrices))
        return rotated

    def _stream_matrices(self) -> dict[str, Tensor]:
        """Return the matrices that made the run's streams of the original ones: rotations, divided by factors."""
        made: dict[str, Tensor] = {}
        for name, size in zip(self.streams.names, self.streams.sizes, strict=True):
            conv = self.network.nodes[name]
            (segment,) = self.streams.layout(conv)
            divisors = self.factors[weight_name(self.network, conv)].double().expand(size * segment.copies)
            rotation = self.run.table.rotations.get(name, torch.eye(size, dtype=torch.float64))
            made[name] = rotation / divisors[:: segment.copies, None]
        return made

    def _float_values(self) -> dict[str, Values]:
        """Return the run's float convolutions by the name of the weight."""
        values: dict[str, Values] = {}
        for conv, op in self.network.ops.items():
            weight = self.network.parameter(conv, 1) if op in ("conv", "conv_transpose") else None
            if weight is not None:
                bias = self.network.parameter(conv, 2)
                values[weight[0]] = Values(weight[1], None if bias is None else bias[1])
        return values

    def _check_shapes(self) -> None:
        absent = [name for name in self.values if name not in self.convolutions]
        added = [name for name in self.convolutions if name not in self.values]
        if absent or added:
            where = f"{absent[0]} is not in this model" if absent else f"this model's {added[0]} is not in the run"
            raise self._refusal(where)
        for name, values in self.values.items():
            if (shape := self.float[name].shape) != values.weight.shape:
                raise self._refusal(f"site {name}: shape {tuple(shape)}, the run has {tuple(values.weight.shape)}")

    def _tuned(self, name: str, values: Values) -> Values:
        """Return the values that the run executes: reconstruction, rounding or training may have moved them.

        A weight whose integers are the nearest ones keeps its float values, so training can go on from these. Any
        other becomes the level of its integers. The bias of a weight that several convolutions read stays, since the
        table may have one for each of them.
        """
        table, weight, bias = self.run.table, values.weight, values.bias
        site = self._sites.get(name)
        if site is not None and not torch.equal(quantize(weight, table.qparams[site.name]), table.weights[site.name]):
            weight = table.level(site.name)
        if bias is not None and len(self._readers[name]) == 1:
            (conv,) = self._readers[name]
            rounded = table.bias(conv, bias)
            bias = dequantize(*rounded).float() if rounded else table.biases.get(conv, bias)
        return Values(weight, bias)

    def _refusal(self, problem: str) -> SrptqError:
        return SrptqError(
            f"{self.run.folder}: {problem}; prepare the network that the run was made of, or the run's own: "
            f"srptq_plugin.Run.open({str(self.run.folder)!r}).program().module()"
        )


def _or_zero(bias: Tensor | None) -> Tensor:
    return torch.zeros(1) if bias is None else bias


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    """Tell whether two weights or biases are equal, up to what folding rounds."""
    # A weight is compared by output channel, since channels may be scaled apart. A bias is compared as a whole.
    others = tuple(range(1, expected.ndim))
    largest = expected.abs().amax(others, keepdim=True) if others else expected.abs().amax()
    return bool(((actual - expected).abs() <= CLOSE * largest).all())
