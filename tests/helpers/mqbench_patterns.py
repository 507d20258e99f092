"""Configs and images for MQBench's `ptq_reconstruction`."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, fx

from helpers import networks

# The adapter comes first, as it makes MQBench importable.
_, advanced_ptq = map(import_module, ("srptq_adapters.mqbench", "mqbench.advanced_ptq"))

Prepare = Callable[..., fx.GraphModule]
IMAGES = networks.images(4, seed=3)
BATCHES = list(IMAGES.split(2))
QUICK = {"pattern": "pac", "epochs": 1}
STRONG = {"epochs": 8, "schedule": "joint", "activation_rate": 1e-2}
STOCK = {
    "scale_lr": 4e-5,
    "warm_up": 0.2,
    "weight": 0.01,
    "max_count": 2,
    "b_range": [20, 2],
    "keep_gpu": True,
    "round_mode": "learned_hard_sigmoid",
    "prob": 1.0,
}


class Easy(dict[str, Any]):
    """A dict with attributes, as MQBench's examples use."""

    __getattr__ = dict.__getitem__


def tune(model: fx.GraphModule, config: Any, images: Iterable[Tensor] = BATCHES) -> fx.GraphModule:
    return advanced_ptq.ptq_reconstruction(model, list(images), config)


def draw(model: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.no_grad():
        return model(IMAGES)
