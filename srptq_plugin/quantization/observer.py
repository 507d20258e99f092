"""The part of an observer that a quantizer calls."""

from typing import TYPE_CHECKING, Protocol

from srptq_plugin.quantization.grid import Bounds

if TYPE_CHECKING:
    from torch import Tensor


class Observer(Protocol):
    """Turns batches of one tensor into bounds. It pickles, since processes that calibrate together exchange it."""

    def update(self, values: "Tensor") -> None:
        """Take in a batch. Copy what has to last: the network may change the tensor in place.

        Raises:
            SrptqError: there is a NaN or an infinity.
        """
        ...

    def merge(self, other: "Observer") -> None:
        """Take in all batches of another observer of the same kind, for example from another process."""
        ...

    def bounds(self) -> Bounds:
        """Return the bounds by all batches so far: one pair, or one pair for each channel.

        Raises:
            SrptqError: there was no batch.
        """
        ...
