from typing import Any

import torch
from torch import Tensor, nn

from .quantize_base import QuantizeBase


class FixedFakeQuantize(QuantizeBase):
    scale: Tensor
    zero_point: Tensor

    def __init__(self, observer: Any, **observer_kwargs: Any) -> None:
        super().__init__(observer, **observer_kwargs)
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))

    def forward(self, values: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.observer_enabled[0] == 1:
            self.activation_post_process(values.detach())
            self.take(*self.activation_post_process.calculate_qparams())
        return self.quantized(values) if self.fake_quant_enabled[0] == 1 else values

    def take(self, scale: Tensor, zero_point: Tensor) -> None:
        self.scale.data, self.zero_point.data = scale.to(self.scale), zero_point.to(self.zero_point)

    def quantized(self, values: Tensor) -> Tensor:
        ends = (self.quant_min, self.quant_max)
        zero_point = self.zero_point.round().clamp(*ends).int()
        if self.is_per_channel:
            return torch.fake_quantize_per_channel_affine(values, self.scale, zero_point, self.ch_axis, *ends)
        return torch.fake_quantize_per_tensor_affine(values, self.scale.item(), int(zero_point.item()), *ends)


class LearnableFakeQuantize(FixedFakeQuantize):
    def __init__(self, observer: Any, **observer_kwargs: Any) -> None:
        super().__init__(observer, **observer_kwargs)
        del self.scale, self.zero_point
        self.scale, self.zero_point = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))


class PACTFakeQuantize(FixedFakeQuantize):
    def __init__(self, observer: Any, alpha: float = 6.0, **observer_kwargs: Any) -> None:
        super().__init__(observer, **observer_kwargs)
        self.alpha = nn.Parameter(torch.tensor([alpha]))
        if not self.is_symmetric_quant:
            self.n_alpha = nn.Parameter(torch.tensor([-alpha]))

    def forward(self, values: Tensor) -> Tensor:
        clipped = torch.clamp(values, -self.alpha if self.is_symmetric_quant else self.n_alpha, self.alpha)
        return super().forward(clipped) if self.fake_quant_enabled[0] == 1 else clipped


class AdaRoundFakeQuantize(FixedFakeQuantize):
    def init(self, weight: Tensor) -> None:
        """Round to the nearest level. MQBench would learn the way to round."""
        weight.data = self.quantized(weight.data)


__all__ = ["AdaRoundFakeQuantize", "FixedFakeQuantize", "LearnableFakeQuantize", "PACTFakeQuantize", "QuantizeBase"]
