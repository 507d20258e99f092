from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor, fx

Calibrate = Callable[[fx.GraphModule], None]


@pytest.fixture
def calibrate() -> Calibrate:
    """Return a function that calibrates as users of torchao do: observe images, then quantize."""

    def run(prepared: fx.GraphModule) -> None:
        from torchao.quantization.pt2e import disable_observer, enable_fake_quant  # noqa: PLC0415

        with torch.no_grad():
            for seed in (1, 2):
                prepared(networks.images(seed=seed))
        prepared.apply(disable_observer)
        prepared.apply(enable_fake_quant)

    return run


@pytest.fixture
def output() -> Callable[[Any, Tensor], Tensor]:
    """Return a function that runs a module and unpacks its output."""

    def run(module: Any, image: Tensor) -> Tensor:
        with torch.no_grad():
            result = module(image)
        return result[0] if isinstance(result, (tuple, list)) else result

    return run
