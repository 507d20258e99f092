"""A quantizer that trains: besides its two bounds it learns a factor that stretches both of them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from srptq_plugin.plugin_api import (
    BoundedFakeQuantize,
    Bounds,
    IntGrid,
    Observer,
    Options,
    QuantizerEntry,
    hookimpl,
)


class StretchedOptions(Options):
    """The options of the quantizer."""

    rate: float = Field(default=1e-3, gt=0)
    """Adam's learning rate for the logarithm of the factor."""
    pull: float = Field(default=1.0, ge=0)
    """The weight of the loss that pulls the factor to 1. It falls to 0 in the course of a training."""


class StretchedFakeQuantize(BoundedFakeQuantize):
    """Two learnable bounds, times a factor that learns at a rate of its own."""

    options_type = StretchedOptions

    def __init__(
        self,
        name: str,
        grid: IntGrid,
        observer: Observer | None = None,
        bounds: Bounds | None = None,
        *,
        constant: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, grid, observer, constant=constant, options=options)
        # The logarithm keeps the factor positive, whatever step Adam takes.
        self.log_factor = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.pull: float = self.options.pull
        if bounds is not None:
            self.set_bounds(bounds)

    @property
    def bounds(self) -> Bounds:
        """The bounds times the factor. A bound of zero stays zero."""
        bounds, factor = super().bounds, self.log_factor.exp()
        return Bounds(bounds.lower * factor, bounds.upper * factor)

    def set_bounds(self, bounds: Bounds) -> None:
        """Start from these bounds with a factor of 1."""
        # Without the reset, a run that goes on from exported bounds would stretch them a second time.
        self.log_factor.data.zero_()
        super().set_bounds(bounds)

    def extra_parameters(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield the logarithm of the factor with its learning rate."""
        yield self.log_factor, self.options.rate

    def on_progress(self, fraction: float) -> None:
        """Weaken the pull as the training goes on."""
        self.pull = self.options.pull * (1 - fraction)

    def auxiliary_loss(self) -> Tensor:
        """Return the loss that pulls the factor to 1."""
        return self.pull * self.log_factor.square()


@hookimpl
def srptq_quantizers() -> Iterable[QuantizerEntry]:
    """Register the quantizer."""
    return [
        QuantizerEntry(
            "stretched",
            "two bounds and a factor that stretches both",
            load=lambda: StretchedFakeQuantize,
            options=StretchedOptions,
        )
    ]
