"""What learns while a graph is tuned: its bounds and, where asked, its weights and biases."""

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
BOTH: Turn = ("weight", "activation")
Weights = Literal["fixed", "rounding", "free"]
"""Whether weights learn: not at all; which of their two neighboring levels to take; or freely, biases with them."""


@dataclass(frozen=True)
class Rates:
    """Adam's steps: `relative` ones are fractions of a site's range, `values` of the step of a weight's grid."""

    weight: float
    activation: float
    kind: Literal["relative", "absolute"]
    values: float

    def of(self, role: Role, quantizer: BoundedFakeQuantize) -> float:
        """The rate of a site's bounds."""
        rate = self.weight if role == "weight" else self.activation
        return rate * _range(quantizer) if self.kind == "relative" else rate


@dataclass(frozen=True)
class Value:
    """A weight or a bias that learns, the ends between which it may, and the scale that it has to fit."""

    parameter: nn.Parameter
    rate: float
    low: Tensor | None = None
    high: Tensor | None = None
    qparams: QParams | None = None

    def clamp(self) -> None:
        """Return to between the ends, and to pairs that the scale can hold."""
        if self.low is not None:
            self.parameter.data.clamp_(self.low, self.high)
        if self.qparams is not None:
            fit_(self.parameter.data, self.qparams)


class Learning:
    """The parameters that learn, in turns; within `with` every other one is frozen."""

    def __init__(self, prepared: PreparedGraph, rates: Rates, weights: Weights = "fixed") -> None:
        self.prepared = prepared
        self.values = [] if weights == "fixed" else list(_values(prepared, rates, free=weights == "free"))
        self._optimizers = {role: self._optimizer(role, rates) for role in BOTH}
        self._peaks = {role: [group["lr"] for group in each.param_groups] for role, each in self._optimizers.items()}
        own = {id(each) for quantizer in prepared.quantizers.values() for each in quantizer.parameters()}
        self._frozen = [p for p in prepared.module.parameters() if p.requires_grad and id(p) not in own]

    def _optimizer(self, role: Role, rates: Rates) -> torch.optim.Adam:
        quantizers = [q for q in self.prepared.of_role(role).values() if not q.fixed]
        groups = [{"params": [q.lower, q.upper], "lr": rates.of(role, q)} for q in quantizers]
        groups += [{"params": [each], "lr": rate} for q in quantizers for each, rate in q.extra_parameters()]
        if role == "weight":
            groups += [{"params": [value.parameter], "lr": value.rate} for value in self.values]
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
        """Let the parameters of these roles learn; the others are held."""
        for role in BOTH:
            for quantizer in self.prepared.of_role(role).values():
                learns = role in turn and not quantizer.fixed
                quantizer.unfreeze() if learns else quantizer.freeze()
                for each in learned_of(quantizer):
                    each.requires_grad_(learns)
        for value in self.values:
            value.parameter.requires_grad_("weight" in turn)

    def step(
        self, loss: Tensor, turn: Turn, share: float, shorten: Callable[[list[Tensor]], None] | None = None
    ) -> None:
        """One step of a turn, at a share of each rate; `shorten` may change the gradients of what learns."""
        for role in turn:
            self._optimizers[role].zero_grad(set_to_none=True)
            for group, peak in zip(self._optimizers[role].param_groups, self._peaks[role], strict=True):
                group["lr"] = peak * share
        loss.backward()
        moving = [each for role in turn for group in self._optimizers[role].param_groups for each in group["params"]]
        all_reduce_mean(each.grad for each in moving if each.grad is not None)
        if shorten is not None:
            shorten(moving)
        for role in turn:
            self._optimizers[role].step()
        for value in self.values:
            value.clamp()

    def state(self) -> dict[str, Any]:
        """What the optimizers remember."""
        return {role: optimizer.state_dict() for role, optimizer in self._optimizers.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let them remember it again."""
        for role, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[role])

    @property
    def learned(self) -> list[nn.Parameter]:
        """All that learns."""
        return [*learned_by(self.prepared), *(value.parameter for value in self.values)]


def learned_by(prepared: PreparedGraph) -> list[nn.Parameter]:
    """All that learns in the quantizers that are not fixed."""
    return [each for q in prepared.quantizers.values() if not q.fixed for each in learned_of(q)]


def learned_of(quantizer: BoundedFakeQuantize) -> list[nn.Parameter]:
    """The bounds of a quantizer, and what else it has that learns."""
    return [quantizer.lower, quantizer.upper, *(each for each, _ in quantizer.extra_parameters())]


def _values(prepared: PreparedGraph, rates: Rates, *, free: bool) -> Iterator[Value]:
    """The weights of all sites and, where free, the biases beside them."""
    for site in prepared.plan.weights:
        weight, qparams = prepared.parameter(site), prepared.quantizers[site.group].qparams().detach()
        low, high = (None, None) if free else neighbors(weight.detach(), qparams)
        yield Value(weight, rates.values * float(qparams.scale.mean()), low, high, qparams)
    if free:
        for bias in {id(each): each for each in prepared.biases.values()}.values():
            yield Value(bias, rates.values * BIAS_SHARE * float(bias.detach().abs().mean()))


def _range(quantizer: BoundedFakeQuantize) -> float:
    return float((quantizer.upper - quantizer.lower).detach().abs().mean())
