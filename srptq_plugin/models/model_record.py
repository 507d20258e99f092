"""Records about networks, which families of networks and the loader exchange."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.types import Size
from srptq_plugin.utils.options import Options

OptionsT = TypeVar("OptionsT", bound=Options)
State = Mapping[str, Tensor]
"""The weights of a checkpoint by their keys, in float32."""
Arguments = Mapping[str, Any]
Range = tuple[float, float]
"""The levels of black and white."""
UNIT: Range = (0.0, 1.0)
LEVELS: Range = (0.0, 255.0)
ASSUMED = "assumed; `input_range` gives another"
"""The origin of an input range that nothing tells."""
CHANNELS = (3, 1)
"""The channels that images may have: RGB, or Y alone."""


def check_range(ends: Range) -> None:
    """Raise SrptqError unless black is below white."""
    if not ends[0] < ends[1]:
        raise SrptqError(f"input_range: {ends} is not a range; give black and white, such as 0:1 or 0:255")


def recognizes_nothing(_state: State) -> bool:
    """Return False for every checkpoint."""
    return False


@dataclass(frozen=True)
class Request(Generic[OptionsT]):
    """The weights, options and input range that a caller chose for a network."""

    state: State | None
    """The weights by their keys, in float32, or None."""
    options: OptionsT
    """The record that the family's entry declares, with the options that the caller gave."""
    input_range: Range | None = None
    """The levels of black and white, or None for the family's usual ones."""


@dataclass(frozen=True)
class SRNetwork:
    """A module with its weights, its range at input and output, and the mean that it subtracts."""

    module: nn.Module
    input_range: Range = UNIT
    mean: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class ModelFamily:
    """A family of networks. Its entry has its name, its summary and its options."""

    build: Callable[[Request[Any]], SRNetwork]
    """Turns a request into a network, or raises `SrptqError`."""
    recognizes: Callable[[State], bool] = recognizes_nothing
    """Tells by keys and shapes whether a checkpoint is of this family, so that `--model FILE` needs no name."""
    keys: tuple[frozenset[str], ...] = ()
    """Keys of its checkpoints, for each layout. An unknown checkpoint is compared with them, for the error."""
    fallback: bool = False
    """Whether it is asked only about checkpoints that no other family recognizes."""


@dataclass(frozen=True)
class ModelRecord:
    """Facts about a network.

    Attributes:
        name: The family or factory.
        scale: The upscaling factor.
        input_range: The levels of black and white, at input and output.
        mean: The RGB mean that the network subtracts itself, in units of its input.
        parameters: The number of weights.
        multiple: The sides of its images have to be multiples of this.
        channels: The channels of its images: 3 for RGB, or 1 for Y.
    """

    name: str
    scale: int
    input_range: Range
    mean: tuple[float, float, float] | None
    parameters: int
    multiple: int = 1
    channels: int = 3

    def fitted(self, side: int) -> int:
        """Round a side up to the next multiple that the network takes.

        >>> ModelRecord("unet", 1, UNIT, None, 0, multiple=8).fitted(57)
        64
        """
        return -(-side // self.multiple) * self.multiple


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode with its record, and the only size of image that it runs at, if there is only one."""

    module: nn.Module
    record: ModelRecord
    only_size: Size | None = None
