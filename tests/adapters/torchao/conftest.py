from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import networks
from torch import Tensor, fx

Calibrate = Callable[[fx.GraphModule], None]


@pytest.fixture
def calibrate() -> Calibrate:
    """As a user of torchao does: run images, then switch observers off and quantizers on."""

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
    """What a module returns, out of its tuple if it is in one."""

    def run(module: Any, image: Tensor) -> Tensor:
        with torch.no_grad():
            found = module(image)
        return found[0] if isinstance(found, (tuple, list)) else found

    return run
