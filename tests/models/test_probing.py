"""The sizes that a network takes, found by running it."""

import pytest
import torch
from helpers.shaped_networks import Conditioned, Denoiser, Luma, Pyramid, Windows
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.export import export_network
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
        (Windows(7), 1, 7),
        (Windows(12), 1, 12),
        (Windows(28, channels=1), 1, 28),
        (nn.Sequential(nn.PixelUnshuffle(3), nn.Conv2d(27, 108, 1), nn.PixelShuffle(6)), 2, 3),
        (nn.Sequential(nn.ReflectionPad2d(40), nn.MaxPool2d(81, 1), Windows(24)), 1, 24),
        (nn.Sequential(nn.ReflectionPad2d(40), nn.MaxPool2d(81, 1), Strided(2)), 1, 4),
    ],
)
def test_the_smallest_multiple_is_found_with_the_scale(module: nn.Module, scale: int, multiple: int) -> None:
    record = describe_toy(module).record
    assert (record.scale, record.multiple) == (scale, multiple)


def test_a_network_of_other_sizes_is_refused() -> None:
    network = nn.Sequential(nn.PixelUnshuffle(11), nn.PixelShuffle(11))
    with pytest.raises(
        SrptqError,
        match=r"^model toy: .*divisible by 11.* multiples of a number such as .* or be quantized for one input size",
    ):
        describe_toy(network)


@pytest.mark.parametrize(("module", "channels"), [(Luma(), 1), (Denoiser(1), 1), (Denoiser(), 3), (nn.Upsample(9), 3)])
def test_images_have_one_channel_or_three(module: nn.Module, channels: int) -> None:
    size = (1, channels, 9, 9) if isinstance(module, nn.Upsample) else None
    assert describe("toy", SRNetwork(module), size).record.channels == channels


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels: int) -> None:
    with pytest.raises(SrptqError, match=rf"to have {channels} channels.* 3 channels \(RGB\) or 1 \(Y\)"):
        describe_toy(Denoiser(channels))


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_the_last_image_of_several_outputs_counts(kind: type, caplog: pytest.LogCaptureFixture) -> None:
    loaded = describe_toy(Pyramid(kind))
    assert loaded.record.scale == 4
    assert loaded.module(torch.zeros(1, 3, 5, 6)).shape == (1, 3, 20, 24)
    place = "quadruple" if kind is dict else "1"
    assert f"{place} is quantized, the last image; `output` chooses another" in caplog.text


@pytest.mark.parametrize(("kind", "output"), [(tuple, 0), (list, "0"), (dict, "double")])
def test_an_output_is_chosen_by_name(kind: type, output: str | int, caplog: pytest.LogCaptureFixture) -> None:
    original = Pyramid(kind)
    loaded = describe("toy", SRNetwork(original), output=output)
    assert (loaded.record.scale, caplog.text) == (2, "")
    ops = [node.name for node in export_network(loaded.module).graph.nodes if "conv2d" in node.name]
    assert len(ops) == 2  # the branch of the other scale is gone
    assert len(list(original(torch.zeros(1, 3, 4, 4)))) == 3


@pytest.mark.parametrize(
    ("output", "message"),
    [(7, r"`output=7` is none of its outputs \(0: \[1, 3, 34, 36\], 1:"), (2, r"gave 2: \[1, 6, 17, 18\]; an output")],
)
def test_outputs_that_are_no_image_are_refused(output: int, message: str) -> None:
    with pytest.raises(SrptqError, match=message):
        describe("toy", SRNetwork(Pyramid()), output=output)


def test_a_second_input_is_named_with_the_cure() -> None:
    with pytest.raises(SrptqError, match=r"takes sigma besides the image; .*super\(\)\.forward\(x, sigma=\.\.\.\)"):
        describe_toy(Conditioned())
