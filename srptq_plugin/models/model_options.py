"""The options of the reference networks. They are apart, so that listing plugins imports no network."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, TypeVar

from pydantic import BeforeValidator

from srptq_plugin.errors import SrptqError
from srptq_plugin.utils.field_types import Allowed, whole
from srptq_plugin.utils.options import Options

OptionsT = TypeVar("OptionsT", bound=Options)
Numbers = Mapping[str, int | float]


def read_number(value: object) -> object:
    """Return the number that a text holds, as an int if it is whole. Return anything else as it is.

    >>> read_number("0.1"), read_number("2"), read_number(2.0), read_number("many")
    (0.1, 2, 2, 'many')
    """
    readers: tuple[Callable[[str], float], ...] = (int, float)
    for reader in readers if isinstance(value, str) else ():
        try:
            value = reader(str(value))
            break
        except ValueError:
            continue
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_positive(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and value > 0 and isfinite(value)


# The last validator runs first, so text is a number before its range is checked.
ModelSize = Annotated[int, whole(1, 1_000_000), BeforeValidator(read_number)]
"""A size of a network, as a number or as text."""
Factor = Annotated[float, BeforeValidator(Allowed("a number above 0", _is_positive)), BeforeValidator(read_number)]
"""A positive factor, as a number or as text."""


class UpscaleOptions(Options):
    """Sizes of a network without blocks. By default they are as in the weights. Weights of another size are refused."""

    upscale: ModelSize | None = None
    """The upscaling factor. `edsr-mini` without weights has 4, or 2."""
    features: ModelSize | None = None
    """Channels of the feature maps."""


class SizeOptions(UpscaleOptions):
    """Sizes of a network. By default they are as in the weights, and weights of another size are refused."""

    blocks: ModelSize | None = None
    """Residual blocks."""


class EdsrOptions(SizeOptions):
    """The options of EDSR."""

    residual_scale: Factor | None = None
    """The factor of each residual, which no checkpoint records. By default 0.1 from 256 features on, and 1 below."""


class RrdbOptions(SizeOptions):
    """The options of RRDBNet."""

    growth: ModelSize | None = None
    """Channels that each layer of a dense block adds."""


class RdnOptions(RrdbOptions):
    """The options of RDN."""

    layers: ModelSize | None = None
    """Dense layers of a block."""


def settle(family: str, options: OptionsT, from_weights: Numbers) -> OptionsT:
    """Return the options with the sizes that the weights have. Refuse an option that contradicts the weights.

    >>> settle("edsr", EdsrOptions(residual_scale=0.1), {"upscale": 2})
    EdsrOptions(upscale=2, features=None, blocks=None, residual_scale=0.1)
    >>> settle("edsr", EdsrOptions(upscale=4), {"upscale": 2})
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: edsr: upscale=4 was given, but the weights have 2; leave it out

    Args:
        family: The name that errors show.
        options: The caller's choice. Options at their defaults contradict nothing.
        from_weights: Sizes read from a checkpoint.
    """
    for name in options.model_fields_set & from_weights.keys():
        number = getattr(options, name)
        if number not in (None, from_weights[name]):
            raise SrptqError(
                f"{family}: {name}={number} was given, but the weights have {from_weights[name]}; leave it out"
            )
    return options.model_copy(update=dict(from_weights))
