"""What a network is: the records that families of networks and the loader exchange."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from srptq_plugin.errors import SrptqError

State = Mapping[str, Tensor]
Arguments = Mapping[str, Any]
Range = tuple[float, float]
UNIT: Range = (0.0, 1.0)


def check_range(ends: Range) -> None:
    """Refuse a range whose ends are not black and then white."""
    if not ends[0] < ends[1]:
        raise SrptqError(f"input_range: {ends} is no input range; give black and white, such as 0:1 or 0:255")


@dataclass(frozen=True)
class Request:
    """What the user asked for: weights, arguments of the network, the range in which images are fed."""

    state: State | None = None
    arguments: Arguments = field(default_factory=dict[str, Any])
    input_range: Range | None = None


@dataclass(frozen=True)
class SRNetwork:
    """A module with its weights, what black and white are at both its ends, and the mean inside it."""

    module: nn.Module
    input_range: Range = UNIT
    mean: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class ModelFamily:
    """A name for `--model`; `build` answers a request, or raises SrptqError where it cannot."""

    name: str
    summary: str
    build: Callable[[Request], SRNetwork]


@dataclass(frozen=True)
class ModelRecord:
    """Facts about a network.

    `mean` is what it subtracts itself, in units of its input. It takes images whose sides are multiples of `multiple`.
    """

    name: str
    scale: int
    input_range: Range
    mean: tuple[float, float, float] | None
    parameters: int
    multiple: int = 1

    def fitted(self, side: int) -> int:
        """Round a side up to what the network takes.

        >>> ModelRecord("unet", 1, UNIT, None, 0, multiple=8).fitted(57)
        64
        """
        return -(-side // self.multiple) * self.multiple


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to quantize, in eval mode, its record, and whether it takes no size but the one asked for."""

    module: nn.Module
    record: ModelRecord
    fixed: bool = False
