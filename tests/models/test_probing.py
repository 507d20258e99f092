"""The sizes that a network takes, found by running it."""

import pytest
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.loading import describe
from srptq_plugin.models.model_record import LoadedModel, SRNetwork


class Strided(nn.Module):
    """A network that adds the shrunk and enlarged image to itself. It fails unless 2^levels divides the sides."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.down, self.up = nn.MaxPool2d(2**levels), nn.Upsample(scale_factor=2**levels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


def describe_toy(module: nn.Module) -> LoadedModel:
    return describe("toy", SRNetwork(module))


@pytest.mark.parametrize(
    ("module", "scale", "multiple"),
    [
        (nn.Upsample(scale_factor=3), 3, 1),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 48, 1), nn.PixelShuffle(4)), 2, 2),
        (nn.Sequential(nn.Conv2d(3, 12, 2, stride=2), nn.PixelShuffle(2)), 1, 2),
        (Strided(4), 1, 16),
        (nn.Sequential(nn.ReflectionPad2d(40), nn.MaxPool2d(81, 1), Strided(2)), 1, 4),
    ],
)
def test_the_smallest_multiple_is_found_with_the_scale(module: nn.Module, scale: int, multiple: int) -> None:
    record = describe_toy(module).record
    assert (record.scale, record.multiple) == (scale, multiple)


def test_a_network_of_other_sizes_is_refused() -> None:
    network = nn.Sequential(nn.PixelUnshuffle(3), nn.PixelShuffle(3))
    with pytest.raises(SrptqError, match=r"^model toy: .*divisible by 3.* power of two up to 64, or "):
        describe_toy(network)
