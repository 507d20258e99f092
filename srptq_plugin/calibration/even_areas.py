"""Bounds that hold even areas of any gray and of vivid colors, which photographs have and a hundred patches may lack.

Values beyond the bounds change brightness over the whole of an even area, where it is seen best.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode

GRAYS = 9
"""The number of even gray images, from black to white."""
VIVID = ((0.25, 0.75), (0.0, 1.0))
"""Dark and light of vivid colors, as shares of the range: each channel is one of both."""
WIDEST = 1.25
"""The largest factor by which a range is widened. Some networks give features on even images that no photograph has."""


def hold_even_areas(prepared: PreparedGraph, input_range: tuple[float, float], patch: Tensor) -> None:
    """Widen the bounds of activations, so that they hold what even images of the size of a patch give.

    Only the middle of a feature map counts, as padding changes its borders. Bounds are not widened for a color, or for
    the grays, where that would take more than `WIDEST` times their range.
    """
    widest = {group: WIDEST * _width(quantizer.bounds) for group, quantizer in _observing(prepared).items()}
    for colors in (_grays(len(patch)), *_vivid(len(patch))):
        low, high = input_range
        _hold(prepared, [low + (high - low) * color.to(patch) for color in colors], patch, widest)


def _grays(channels: int) -> list[Tensor]:
    return [level.expand(channels) for level in torch.linspace(0, 1, GRAYS)]


def _vivid(channels: int) -> Iterator[list[Tensor]]:
    """Yield vivid colors, one at a time. One channel has none."""
    for ends in VIVID:
        for color in product(ends, repeat=channels):
            if len(set(color)) > 1:
                yield [torch.tensor(color)]


def _hold(prepared: PreparedGraph, colors: Sequence[Tensor], patch: Tensor, widest: Mapping[str, Tensor]) -> None:
    values: dict[str, list[Tensor]] = defaultdict(list)
    with ExitStack() as stack, prepared.mode(Mode.OFF), torch.no_grad():
        for group, quantizer in _observing(prepared).items():
            stack.callback(quantizer.register_forward_hook(partial(_keep_ends, values[group])).remove)
        for color in colors:
            prepared(color[None, :, None, None].expand(1, *patch.shape).contiguous())
    for group, ends in values.items():
        _widen(prepared.quantizers[group], torch.cat(ends), widest[group])


def _observing(prepared: PreparedGraph) -> dict[str, BoundedFakeQuantize]:
    quantizers = prepared.of_role("activation").items()
    return {group: quantizer for group, quantizer in quantizers if not (quantizer.fixed or quantizer.dynamic)}


def _width(bounds: Bounds) -> Tensor:
    return bounds.upper - bounds.lower


def _keep_ends(ends: list[Tensor], _module: nn.Module, _inputs: object, output: Tensor) -> None:
    middle = output[..., _middle(output, -2), _middle(output, -1)] if output.ndim == IMAGE_AXES else output
    ends.append(torch.stack([middle.amin(), middle.amax()]))


def _middle(values: Tensor, axis: int) -> slice:
    side = values.shape[axis]
    return slice(max(0, side // 2 - 2), side // 2 + 2)


def _widen(quantizer: BoundedFakeQuantize, ends: Tensor, widest: Tensor) -> None:
    ends = ends.double() if quantizer.limits is None else ends.double().clamp(*quantizer.limits)
    bounds = quantizer.bounds
    wider = Bounds(torch.minimum(bounds.lower, ends.min()), torch.maximum(bounds.upper, ends.max()))
    if bool((_width(wider) <= widest).all()):
        quantizer.set_bounds(wider)
