"""The options of the fake-quantizers. They are apart, so that listing plugins imports no quantizer."""

from typing import Annotated, Literal

from srptq_plugin.utils.field_types import Fraction, whole
from srptq_plugin.utils.options import Options

Gap = Annotated[int, whole(1, 8)]


class DdtbOptions(Options):
    """The options of DDTB's quantizer."""

    gated: Fraction = 0.3
    """The share of tensors that have a gate. The paper has 0.3 for EDSR, 0.1 for SRResNet and 0.5 for RDN."""
    bypassed: Fraction = 0.1
    """The share of a training in which gates do not act yet."""


class LinearOptions(Options):
    """The options of the linear quantizer, for activations. `per_channel` decides for weights."""

    granularity: Literal["layer", "channel"] = "layer"
    """An image has one range, or each of its channels has its own."""


class DaqOptions(Options):
    """The options of DAQ's quantizer, for activations. `per_channel` decides for weights."""

    granularity: Literal["layer", "channel"] = "channel"
    """An image has one mean and deviation, or each of its channels has its own."""


class MixedDaqOptions(Options):
    """The options of DAQ's quantizer with mixed precision."""

    share: Fraction = 0.1
    """The share p of channels with other bits, for deviations that are log-normal."""
    gap: Gap = 1
    """The bits m that channels have more or less."""
