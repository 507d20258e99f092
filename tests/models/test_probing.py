"""Which sizes a network takes is found by running it, before anything else is done."""

import pytest
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models import LoadedModel, SRNetwork, describe


class Strided(nn.Module):
    """Halves the image, and adds it enlarged to itself: fails where a side is odd."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.down, self.up = nn.MaxPool2d(2**levels), nn.Upsample(scale_factor=2**levels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


def described(module: nn.Module) -> LoadedModel:
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
    record = described(module).record
    assert (record.scale, record.multiple) == (scale, multiple)


def test_a_network_of_other_sizes_is_refused_by_name() -> None:
    network = nn.Sequential(nn.PixelUnshuffle(3), nn.PixelShuffle(3))
    with pytest.raises(SrptqError, match=r"^model toy: .*divisible by 3.* power of two up to 64, or "):
        described(network)
