from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization import FakeQuantizeBase

PER_CHANNEL = (torch.per_channel_symmetric, torch.per_channel_affine)
SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


class QuantizeBase(FakeQuantizeBase):
    dtype: torch.dtype
    qscheme: torch.qscheme
    quant_min: int
    quant_max: int
    pot_scale: bool
    ch_axis: int

    def __init__(self, observer: Any, **observer_kwargs: Any) -> None:
        super().__init__()
        self.activation_post_process = observer(**observer_kwargs)
        for name in ("dtype", "qscheme", "quant_min", "quant_max", "pot_scale", "ch_axis"):
            setattr(self, name, getattr(self.activation_post_process, name))
        self.is_per_channel = self.qscheme in PER_CHANNEL
        self.is_symmetric_quant = self.qscheme in SYMMETRIC

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.activation_post_process.calculate_qparams()
