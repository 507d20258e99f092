"""What a quantizer needs of an observer."""

from typing import TYPE_CHECKING, Protocol

from srptq_plugin.quantization.grid import Bounds

if TYPE_CHECKING:
    from torch import Tensor


class Observer(Protocol):
    """Batches of one tensor become bounds; it pickles, as processes that calibrate together exchange it."""

    def update(self, values: "Tensor") -> None:
        """Take in a batch; a NaN or an infinity raises `SrptqError`. Keep a copy: a network may work in place."""
        ...

    def merge(self, other: "Observer") -> None:
        """Take in what another observer of the same kind has seen, on another process say."""
        ...

    def bounds(self) -> Bounds:
        """The bounds by all batches so far, one pair or one for each channel; none seen raises `SrptqError`."""
        ...
