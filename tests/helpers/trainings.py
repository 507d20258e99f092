"""Short trainings without labels, uninterrupted or resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers import networks
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.qat.batches import Batch
from srptq_plugin.qat.training import Training, train
from srptq_plugin.recipes.schema import TrainingSettings

IMAGES = networks.images(12, 12, 12, seed=5)


def begun(prepared: PreparedGraph, **options: Any) -> Training:
    """Return a training of four steps on IMAGES, which are observed first."""
    prepared.observe([IMAGES])
    chosen: dict[str, Any] = {"steps": 4, "every": 2, "value_rate": 0.05, "bound_rate": 2e-3, **options}
    return Training(prepared, TrainingSettings(**chosen), peak=1.0)


def batch(step: int) -> Batch:
    return IMAGES[3 * step : 3 * step + 3], None


def closeness(prepared: PreparedGraph) -> float:
    return -float((prepared(IMAGES[:2]) - prepared.float_forward(IMAGES[:2])[0]).square().mean())


def everything(training: Training) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in training.prepared.module.state_dict().values()]


def interrupted(start: Callable[[], Training], folder: Path) -> tuple[Training, Training]:
    """Return an uninterrupted training, and one that resumed from the saved state of a third, half way."""
    whole, first, second = (start() for _ in range(3))
    assert [record.step for record in train(whole, batch, closeness)] == [0, 2, 4]
    records = train(first, batch, closeness)
    assert [next(records).step for _ in range(2)] == [0, 2]
    torch.save(first.state(), folder / "state.pt")
    second.resume(torch.load(folder / "state.pt", weights_only=True))
    assert [record.step for record in train(second, batch, closeness)] == [4]
    return whole, second
