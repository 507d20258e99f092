"""The options of the fake-quantizers. They are apart, so that listing plugins imports no quantizer."""

from srptq_plugin.utils.field_types import Fraction
from srptq_plugin.utils.options import Options


class DdtbOptions(Options):
    """The options of DDTB's quantizer."""

    gated: Fraction = 0.3
    """The share of tensors that have a gate. The paper has 0.3 for EDSR, 0.1 for SRResNet and 0.5 for RDN."""
    bypassed: Fraction = 0.1
    """The share of a training in which gates do not act yet."""
