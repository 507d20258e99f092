"""The warning about a wrong input range, which a right range and an identity do not cause."""

import pytest
import torch
from torch import Tensor, nn

from srptq_plugin.data.images import random_patches, sample_images, to_tensor
from srptq_plugin.models.loading import describe, load_model
from srptq_plugin.models.model_record import Range, SRNetwork
from srptq_plugin.models.plausible import warn_of_range


def warnings(module: nn.Module, ends: Range, caplog: pytest.LogCaptureFixture) -> list[str]:
    patches = to_tensor(random_patches(sample_images(4), 2, 24, seed=0), ends)
    warn_of_range(describe("net", SRNetwork(module, ends)), patches)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0)])
def test_edsr_in_another_range_is_warned_of(ends: Range, caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings(load_model().module, ends, caplog)
    assert f"from its input in the range {ends[0]:g}:{ends[1]:g}, and 4" in message
    assert message.endswith("dB in 0:255: if it was trained with that, give `input_range=0:255`")


def test_edsr_in_its_own_range_is_not(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(load_model().module, (0.0, 255.0), caplog) == []


class Offset(nn.Module):
    """A network of scale 1 that adds a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        return x + self.level


class Exploding(nn.Module):
    """A network whose output is not finite in other ranges than 0 to 1, and far from its input in that one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x**2)


def test_ranges_without_finite_outputs_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(Exploding(), (0.0, 1.0), caplog) == []


class Textures(nn.Module):
    """A network that adds a pattern as strong as its range, which is far from its input in every range."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.3


def test_far_from_every_range_is_not(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(Textures(), (0.0, 1.0), caplog) == []


@pytest.mark.parametrize(("level", "count"), [(0.0, 0), (0.01, 0), (0.1, 1), (torch.nan, 1), (torch.inf, 1)])
def test_scale_1_is_compared_with_its_input(level: float, count: int, caplog: pytest.LogCaptureFixture) -> None:
    assert len(warnings(Offset(level), (0.0, 1.0), caplog)) == count
