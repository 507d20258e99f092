"""DDTB, dynamic dual trainable bounds (Zhong et al., ECCV 2022): both learn, and gates scale them image by image.

Only the tensors whose extremes differ most from image to image have a gate.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.qat.dynamic import by_extremes
from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize
from srptq_plugin.utils.distributed import all_reduce_mean

HIDDEN, RATE, SMALL = 32, 1e-3, 0.1
INSIDE = IntGrid(2, float_zero_point=True)


class Gate(nn.Module):
    """From the means of an image's channels to two numbers, 0 where a bound stays; 2-bit weights and activations.

    It starts near 0, so that a short training too has pulled it there before it acts.

    >>> Gate(3).eval()(torch.zeros(2, 3, 5, 5)).shape
    torch.Size([2, 2])
    """

    mean: Tensor
    variance: Tensor
    acts: Tensor

    def __init__(self, channels: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.narrow = _kernel(HIDDEN, channels, generator)
        self.widen = _kernel(2, HIDDEN, generator, SMALL)
        self.gain, self.shift = nn.Parameter(torch.ones(HIDDEN)), nn.Parameter(torch.zeros(HIDDEN))
        self.register_buffer("mean", torch.zeros(HIDDEN))
        self.register_buffer("variance", torch.ones(HIDDEN))
        self.register_buffer("acts", torch.tensor(False))  # noqa: FBT003
        self.rounded: Callable[[Tensor], Tensor] = partial(by_extremes, grid=INSIDE)

    def forward(self, values: Tensor) -> Tensor:
        """Pool, 1 x 1 convolution, batch norm, ReLU, 1 x 1 convolution; the map gets no gradient from it."""
        pooled = values.detach().flatten(2).mean(2)
        hidden = self._convolve(pooled, self.narrow)
        several = self.training and len(values) > 1
        normed = functional.batch_norm(hidden, self.mean, self.variance, self.gain, self.shift, training=several)
        return self._convolve(normed.relu(), self.widen)

    def _convolve(self, pooled: Tensor, kernel: Tensor) -> Tensor:
        return functional.linear(self.rounded(pooled), self.rounded(kernel[None])[0])


def _kernel(outputs: int, inputs: int, generator: torch.Generator, share: float = 1.0) -> nn.Parameter:
    """As torch starts a convolution's, or a share of that."""
    weight = torch.empty(outputs, inputs)
    return nn.Parameter(share * nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator))


class DdtbFakeQuantize(BoundedFakeQuantize):
    """Two learnable bounds; once chosen, each image's own: those bounds times factors from 0 to 2.

    >>> quantizer = DdtbFakeQuantize("input", IntGrid(2, float_zero_point=True), bounds=Bounds.of(-1.0, 1.0))
    >>> quantizer.gate is None
    True
    """

    dynamic = True
    gate: Gate | None
    choices: ClassVar[Mapping[str, Any]] = {"gated": 0.3, "bypassed": 0.1}
    """`gated`: the share of tensors that have a gate, the paper's for EDSR; it has 0.1 for SRResNet and 0.5 for RDN.
    `bypassed`: the share of a training in which gates do not act yet."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.constant:
            raise SrptqError("its bounds go by the image, and a weight has none; set it to bounded")
        if self.grid.channel_axis is not None:
            raise SrptqError("its bounds go by the image, not by the channel; give one range a tensor")
        for name, share in self.options.items():
            if type(share) not in (int, float) or not 0 <= share <= 1:
                raise SrptqError(f"{name}: {share!r} is no share; give a number from 0 to 1")
        self.register_module("gate", None)
        self._pulls: list[Tensor] | None = None

    @classmethod
    def on_train_begin(cls, members: Sequence[Any], run_float: Callable[[], object]) -> None:
        """Give gates to those with the largest dynamic intensity, unless gates were taken over."""
        if any(each.gate is not None for each in members):
            return
        seen: dict[DdtbFakeQuantize, _Seen] = {member: _Seen() for member in members}
        with ExitStack() as stack:
            for member, each in seen.items():
                stack.callback(member.register_forward_pre_hook(each.add).remove)
            run_float()
        fit = [member for member in members if len(seen[member].channels) == 1]
        intensity = torch.tensor([seen[member].intensity for member in fit])
        all_reduce_mean([intensity])
        order: list[int] = intensity.argsort(descending=True, stable=True).tolist()
        gated = members[0].options["gated"]
        for n in order[: max(gated > 0, round(gated * len(members)))]:
            (channels,) = seen[fit[n]].channels
            fit[n].give_gate(Gate(channels, seed=n))

    def give_gate(self, gate: Gate) -> None:
        """From now on it has this one."""
        self.gate = gate.to(self.lower.device).train(self.training)

    def extra_parameters(self) -> Iterator[tuple[nn.Parameter, float]]:
        """The parameters of the gate."""
        if self.gate is not None:
            yield from ((each, RATE) for each in self.gate.parameters())

    def on_progress(self, fraction: float) -> None:
        """The gate acts once the first part is over, and from then on; before, what the step ahead pulls is noted."""
        self._pulls = []
        if self.gate is not None and fraction >= self.options["bypassed"]:
            self.gate.acts.fill_(value=True)

    def auxiliary_loss(self) -> Tensor | None:
        """While the gate is bypassed: how far its factors are from 1, before the sigmoid."""
        pulls, self._pulls = self._pulls, None
        return torch.stack(pulls).mean() if pulls else None

    def state(self) -> dict[str, Tensor]:
        """The bounds and the gate."""
        gate = {} if self.gate is None else self.gate.state_dict(prefix="gate.")
        return super().state() | {name: each.detach().clone() for name, each in gate.items()}

    def quantize_tensor(self, values: Tensor) -> Tensor:
        if self.gate is not None and self.gate.acts:
            return fake_quantize(values, project(self._scaled(self.gate(values)), replace(self.grid, channel_axis=0)))
        if self.gate is not None and self._pulls is not None:
            self._pulls.append(self.gate(values).square().mean())
        return super().quantize_tensor(values)

    def _scaled(self, given: Tensor) -> Bounds:
        """The bounds of each image."""
        lower, upper = (2 * given.double().sigmoid()).unbind(1)
        return Bounds(self.bounds.lower * lower, self.bounds.upper * upper)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: object, **kwargs: object
    ) -> None:
        kernel = state_dict.get(f"{prefix}gate.narrow")
        if kernel is not None and self.gate is None:
            self.give_gate(Gate(kernel.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@dataclass
class _Seen:
    """What passes a quantizer: how many channels it has, and the extremes of each image."""

    channels: set[int] = field(default_factory=set[int])
    low: list[Tensor] = field(default_factory=list[Tensor])
    high: list[Tensor] = field(default_factory=list[Tensor])

    def add(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(1)
        self.channels.add(inputs[0].shape[1])
        self.low.append(rows.amin(1))
        self.high.append(rows.amax(1))

    @property
    def intensity(self) -> float:
        """The variance over images of the smallest value, and that of the largest."""
        ends = torch.stack(self.low).amin(0), torch.stack(self.high).amax(0)
        return sum(float(each.double().var(correction=0)) for each in ends)
