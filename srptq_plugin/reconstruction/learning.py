"""The parameters that learn while a graph is tuned: bounds and, optionally, weights and biases."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from srptq_plugin.planning.plan import Role
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import QParams, neighbors
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.quantization.saturation import fit_
from srptq_plugin.utils.distributed import all_reduce_mean

Turn = tuple[Role, ...]
BIAS_SHARE = 0.05
"""The rate of a bias, relative to its mean magnitude, for a weight's rate of one grid step."""
BOTH: Turn = ("weight", "activation")
Weights = Literal["fixed", "rounding", "free"]
"""How weights learn: not at all, between their two neighboring levels, or freely and biases with them."""


@dataclass(frozen=True)
class Rates:
    """Learning rates, which are the lengths of Adam's steps.

    Attributes:
        weight: The rate of the bounds of weights.
        activation: The rate of the bounds of activations.
        kind: Whether these two are fractions of a site's range or absolute.
        values: The rate of weights, in steps of their grids.
        level: An 8-bit level of the image in the network's units. It is the unit of an absolute rate of activations.
        absolute_values: Whether the rates of weights and biases are absolute instead.
    """

    weight: float
    activation: float
    kind: Literal["relative", "absolute"]
    values: float
    level: float = 1.0
    absolute_values: bool = False

    def bounds_rate(self, role: Role, quantizer: BoundedFakeQuantize) -> float:
        """Return the rate of a quantizer's bounds."""
        # A step of Adam has the length of its rate, whatever the gradient's magnitude. A rate relative to the range
        # therefore moves the bounds of every site by the same share.
        rate = self.weight if role == "weight" else self.activation
        if self.kind == "relative":
            return rate * _range(quantizer)
        return rate if role == "weight" else rate * self.level

    def values_rate(self, unit: float) -> float:
        """Return the rate of a weight or a bias, with the unit of a relative rate."""
        return self.values if self.absolute_values else self.values * unit


@dataclass(frozen=True)
class Value:
    """A weight or a bias that learns.

    Attributes:
        parameter: The weight or bias.
        rate: The length of Adam's steps.
        low: Its smallest values. None if it is free.
        high: Its largest values.
        qparams: The scale whose pair limit a weight has to keep. None for a bias.
    """

    parameter: nn.Parameter
    rate: float
    low: Tensor | None = None
    high: Tensor | None = None
    qparams: QParams | None = None

    def clamp(self) -> None:
        """Clamp the parameter between its ends, and shrink pairs of weights that its scale cannot hold."""
        if self.low is not None:
            self.parameter.data.clamp_(self.low, self.high)
        if self.qparams is not None:
            fit_(self.parameter.data, self.qparams)


class Learning:
    """The parameters that learn, with an optimizer for each role.

    Within `with` every other parameter is frozen. On exit nothing of the network learns that did not learn before.
    """

    def __init__(self, prepared: PreparedGraph, rates: Rates, weights: Weights = "fixed") -> None:
        self.prepared = prepared
        self.values = [] if weights == "fixed" else list(_iter_values(prepared, rates, free=weights == "free"))
        self._optimizers = {role: self._optimizer(role, rates) for role in BOTH}
        self._peaks = {
            role: [group["lr"] for group in optimizer.param_groups] for role, optimizer in self._optimizers.items()
        }
        own = {id(p) for quantizer in prepared.quantizers.values() for p in quantizer.parameters()}
        self._frozen = [p for p in prepared.module.parameters() if p.requires_grad and id(p) not in own]

    @property
    def learned(self) -> list[nn.Parameter]:
        """All parameters that learn in some turn."""
        return [*learned_bounds(self.prepared), *(value.parameter for value in self.values)]

    def _optimizer(self, role: Role, rates: Rates) -> torch.optim.Adam:
        quantizers = [q for q in self.prepared.of_role(role).values() if not q.fixed]
        groups = [{"params": [q.lower, q.upper], "lr": rates.bounds_rate(role, q)} for q in quantizers]
        groups += [{"params": [extra], "lr": rate} for q in quantizers for extra, rate in q.extra_parameters()]
        if role == "weight":
            groups += [{"params": [value.parameter], "lr": value.rate} for value in self.values]
        # Adam refuses to be empty: a role without parameters has a placeholder.
        return torch.optim.Adam(groups or [{"params": [torch.zeros(1, requires_grad=True)]}])

    def __enter__(self) -> Self:
        for parameter in self._frozen:
            parameter.requires_grad_(False)  # noqa: FBT003
        return self

    def __exit__(self, *_error: object) -> None:
        for quantizer in self.prepared.quantizers.values():
            quantizer.unfreeze()
        for value in self.values:
            value.parameter.requires_grad_(False)  # noqa: FBT003
        for parameter in self._frozen:
            parameter.requires_grad_(True)  # noqa: FBT003

    def take_turns(self, turn: Turn) -> None:
        """Let the parameters of these roles learn, and freeze the quantizers of the others.

        A frozen quantizer computes its parameters once. One of a weight computes its output once.
        """
        for role in BOTH:
            for quantizer in self.prepared.of_role(role).values():
                learns = role in turn and not quantizer.fixed
                if learns:
                    quantizer.unfreeze()
                else:
                    quantizer.freeze()
                for parameter in quantizer_parameters(quantizer):
                    parameter.requires_grad_(learns)
        for value in self.values:
            value.parameter.requires_grad_("weight" in turn)

    def step(
        self, loss: Tensor, turn: Turn, share: float, shorten: Callable[[list[Tensor]], None] | None = None
    ) -> None:
        """Make one step of Adam.

        Args:
            loss: The loss, whose graph is freed.
            turn: The roles that learn, as given to `take_turns`.
            share: The share of each rate, which a schedule lowers.
            shorten: Changes the gradients of these parameters in place before the step.
        """
        for role in turn:
            self._optimizers[role].zero_grad(set_to_none=True)
            for group, peak in zip(self._optimizers[role].param_groups, self._peaks[role], strict=True):
                group["lr"] = peak * share
        loss.backward()
        moving = [p for role in turn for group in self._optimizers[role].param_groups for p in group["params"]]
        # Before `shorten`, so that every process sees the same gradients and makes the same step.
        all_reduce_mean(p.grad for p in moving if p.grad is not None)
        if shorten is not None:
            shorten(moving)
        for role in turn:
            self._optimizers[role].step()
        for value in self.values:
            value.clamp()

    def state(self) -> dict[str, Any]:
        """Return the states of the optimizers."""
        return {role: optimizer.state_dict() for role, optimizer in self._optimizers.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the optimizers from `state()`."""
        for role, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[role])


def learned_bounds(prepared: PreparedGraph) -> list[nn.Parameter]:
    """Return the parameters of all quantizers that are not fixed."""
    return [p for q in prepared.quantizers.values() if not q.fixed for p in quantizer_parameters(q)]


def quantizer_parameters(quantizer: BoundedFakeQuantize) -> list[nn.Parameter]:
    """Return the bounds of a quantizer and its extra parameters."""
    return [quantizer.lower, quantizer.upper, *(extra for extra, _ in quantizer.extra_parameters())]


def _iter_values(prepared: PreparedGraph, rates: Rates, *, free: bool) -> Iterator[Value]:
    """Yield the weights of all sites and, if they are free, the biases of their convolutions."""
    for site in prepared.plan.weights:
        weight, qparams = prepared.parameter(site), prepared.quantizers[site.group].qparams().detach()
        low, high = (None, None) if free else neighbors(weight.detach(), qparams)
        yield Value(weight, rates.values_rate(float(qparams.scale.mean())), low, high, qparams)
    if free:
        biases = {id(bias): bias for bias in prepared.biases.values()}  # convolutions may share one
        for bias in biases.values():
            yield Value(bias, rates.values_rate(BIAS_SHARE * float(bias.detach().abs().mean())))


def _range(quantizer: BoundedFakeQuantize) -> float:
    return float((quantizer.upper - quantizer.lower).detach().abs().mean())
