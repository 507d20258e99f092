from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization import ObserverBase as TorchObserver

SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


class ObserverBase(TorchObserver):
    min_val: Tensor
    max_val: Tensor

    def __init__(  # noqa: PLR0917
        self,
        dtype: torch.dtype = torch.quint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        reduce_range: bool = False,  # noqa: FBT001, FBT002
        quant_min: int | None = None,
        quant_max: int | None = None,
        ch_axis: int = -1,
        pot_scale: bool = False,  # noqa: FBT001, FBT002
        factory_kwargs: Any = None,  # noqa: ARG002
    ) -> None:
        super().__init__(dtype)
        whole = (-128, 127) if dtype == torch.qint8 else (0, 255)
        self.quant_min = whole[0] if quant_min is None else quant_min
        self.quant_max = whole[1] if quant_max is None else quant_max
        self.qscheme, self.reduce_range, self.ch_axis, self.pot_scale = qscheme, reduce_range, ch_axis, pot_scale
        self.register_buffer("min_val", torch.tensor(torch.inf))
        self.register_buffer("max_val", torch.tensor(-torch.inf))

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lower, upper = self.min_val.clamp(max=0), self.max_val.clamp(min=0)
        symmetric = self.qscheme in SYMMETRIC
        width = 2 * torch.maximum(-lower, upper) if symmetric else upper - lower
        scale = (width / (self.quant_max - self.quant_min)).clamp(min=torch.finfo(torch.float32).eps)
        if self.pot_scale:
            scale = scale.log2().round().exp2()
        zero_point = 0 * scale if symmetric else self.quant_min - (lower / scale).round()
        return scale.reshape(-1), zero_point.clamp(self.quant_min, self.quant_max).int().reshape(-1)


class MinMaxObserver(ObserverBase):
    def forward(self, values: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = values.reshape(1, -1) if self.ch_axis == -1 else values.movedim(self.ch_axis, 0).flatten(1)
        lower, upper = (ends.squeeze(0) if self.ch_axis == -1 else ends for ends in rows.aminmax(dim=1))
        self.min_val, self.max_val = torch.minimum(self.min_val, lower), torch.maximum(self.max_val, upper)
        return values
