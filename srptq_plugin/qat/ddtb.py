"""DDTB, dynamic dual trainable bounds (Zhong et al., ECCV 2022): both bounds learn, and gates scale them by image.

Only the tensors whose extremes differ most from image to image have a gate.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.errors import SrptqError
from srptq_plugin.qat.dynamic import by_extremes
from srptq_plugin.qat.quantizer_options import DdtbOptions
from srptq_plugin.quantization.grid import Bounds, IntGrid, project
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, fake_quantize
from srptq_plugin.utils.distributed import all_reduce_mean

HIDDEN = 32
"""The width of a gate's hidden layer."""
RATE = 1e-3
"""Adam's learning rate for a gate."""
SMALL = 0.1
"""The share of torch's usual start from which the last layer of a gate starts."""
INSIDE = IntGrid(2, float_zero_point=True)
"""The grid of a gate's own weights and activations."""


class Gate(nn.Module):
    """Computes two logits for each image from the means of its channels, with 2-bit weights and activations.

    A logit of 0 leaves a bound as it is. The gate starts near 0, so that even a short training has pulled it there
    before it acts.

    >>> Gate(3).eval()(torch.zeros(2, 3, 5, 5)).shape
    torch.Size([2, 2])
    """

    mean: Tensor
    variance: Tensor
    acts: Tensor

    def __init__(self, channels: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        # The order of these two draws decides the start for a seed.
        self.narrow = _kernel(HIDDEN, channels, generator)
        self.widen = _kernel(2, HIDDEN, generator, SMALL)
        self.gain, self.shift = nn.Parameter(torch.ones(HIDDEN)), nn.Parameter(torch.zeros(HIDDEN))
        self.register_buffer("mean", torch.zeros(HIDDEN))
        self.register_buffer("variance", torch.ones(HIDDEN))
        self.register_buffer("acts", torch.tensor(False))  # noqa: FBT003
        self.rounded: Callable[[Tensor], Tensor] = partial(by_extremes, grid=INSIDE)

    def forward(self, values: Tensor) -> Tensor:
        """Pool, convolve 1 x 1, normalize, ReLU, convolve 1 x 1. Return [N, 2]. The map gets no gradient."""
        pooled = values.detach().flatten(2).mean(2)
        hidden = self._convolve(pooled, self.narrow)
        batch_statistics = self.training and len(values) > 1  # a single pooled image has no variance
        normed = functional.batch_norm(
            hidden, self.mean, self.variance, self.gain, self.shift, training=batch_statistics
        )
        return self._convolve(normed.relu(), self.widen)

    def _convolve(self, pooled: Tensor, kernel: Tensor) -> Tensor:
        # `rounded` quantizes each row of a batch by its own extremes. A kernel is one row: one range for all of it.
        return functional.linear(self.rounded(pooled), self.rounded(kernel[None])[0])


def _kernel(outputs: int, inputs: int, generator: torch.Generator, share: float = 1.0) -> nn.Parameter:
    """Return a kernel with torch's start for convolutions, times `share`."""
    weight = torch.empty(outputs, inputs)
    return nn.Parameter(share * nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator))


class DdtbFakeQuantize(BoundedFakeQuantize):
    """A quantizer with two learnable bounds. With a gate, each image has both bounds times factors from 0 to 2.

    >>> quantizer = DdtbFakeQuantize("input", IntGrid(2, float_zero_point=True), bounds=Bounds.of(-1.0, 1.0))
    >>> quantizer.gate is None
    True
    """

    dynamic = True
    gate: Gate | None
    options_type = DdtbOptions

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.constant:
            raise SrptqError("its bounds go by the image, and a weight has none; set it to bounded")
        if self.grid.channel_axis is not None:
            raise SrptqError("its bounds go by the image, not by the channel; give one range a tensor")
        self.register_module("gate", None)
        self._pulls: list[Tensor] | None = None

    @classmethod
    def on_train_begin(cls, members: Sequence[Any], run_float: Callable[[], object]) -> None:
        """Give gates to the tensors with the largest dynamic intensity, unless a run has brought gates along."""
        if any(member.gate is not None for member in members):
            return
        statistics: dict[DdtbFakeQuantize, _Statistics] = {member: _Statistics() for member in members}
        with ExitStack() as stack:
            for member, seen in statistics.items():
                stack.callback(member.register_forward_pre_hook(seen.add).remove)
            run_float()
        # A quantizer that several tensors share may see several widths. A gate has one.
        fit = [member for member in members if len(statistics[member].channels) == 1]
        intensity = torch.tensor([statistics[member].intensity for member in fit])
        all_reduce_mean([intensity])  # so that all processes choose the same members
        order: list[int] = intensity.argsort(descending=True, stable=True).tolist()
        gated = members[0].options.gated
        for n in order[: max(gated > 0, round(gated * len(members)))]:
            (channels,) = statistics[fit[n]].channels
            fit[n].give_gate(Gate(channels, seed=n))

    def give_gate(self, gate: Gate) -> None:
        """Give it this gate, on the device of the bounds."""
        self.gate = gate.to(self.lower.device).train(self.training)

    def extra_parameters(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield the parameters of the gate."""
        if self.gate is not None:
            yield from ((parameter, RATE) for parameter in self.gate.parameters())

    def on_progress(self, fraction: float) -> None:
        """Switch the gate on for good once the first part of the training is over. Start to note losses for a step."""
        self._pulls = []
        if self.gate is not None and fraction >= self.options.bypassed:
            self.gate.acts.fill_(value=True)

    def auxiliary_loss(self) -> Tensor | None:
        """Return the mean square of the gate's logits while it is bypassed: that pulls its factors to 1."""
        pulls = self._pulls
        # Stop noting: forward passes outside of training steps, as in a validation, must not keep their graphs.
        self._pulls = None
        return torch.stack(pulls).mean() if pulls else None

    def state(self) -> dict[str, Tensor]:
        """Return copies of the bounds and of the gate's tensors."""
        gate = {} if self.gate is None else self.gate.state_dict(prefix="gate.")
        return super().state() | {name: tensor.detach().clone() for name, tensor in gate.items()}

    def quantize_tensor(self, values: Tensor) -> Tensor:
        """Fake-quantize between the bounds, or between each image's own ones if the gate acts."""
        if self.gate is not None and self.gate.acts:
            return fake_quantize(
                values, project(self._scale_bounds(self.gate(values)), replace(self.grid, channel_axis=0))
            )
        if self.gate is not None and self._pulls is not None:
            self._pulls.append(self.gate(values).square().mean())
        return super().quantize_tensor(values)

    def _scale_bounds(self, logits: Tensor) -> Bounds:
        """Return the bounds of each image, each as a tensor [N]."""
        lower, upper = (2 * logits.double().sigmoid()).unbind(1)
        return Bounds(self.bounds.lower * lower, self.bounds.upper * upper)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: object, **kwargs: object
    ) -> None:
        # A fresh quantizer has no gate to load into yet. Its width is the number of columns of the first kernel.
        kernel = state_dict.get(f"{prefix}gate.narrow")
        if kernel is not None and self.gate is None:
            self.give_gate(Gate(kernel.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@dataclass
class _Statistics:
    """Statistics of the tensors at a quantizer: their numbers of channels, and the extremes of each image."""

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
        """The variance over images of the smallest value, plus the variance of the largest value."""
        ends = torch.stack(self.low).amin(0), torch.stack(self.high).amax(0)
        return sum(float(values.double().var(correction=0)) for values in ends)
