"""Bounds that hold even areas from black to white, which photographs have and a hundred patches may lack.

Values beyond the bounds change brightness over the whole of an even area, where it is seen best.
"""

from collections import defaultdict
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from srptq_plugin.graph.network import IMAGE_AXES
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.quantization.quantizer import Mode

GRAYS = 9
"""The number of even images, from black to white."""
WIDEST = 1.25
"""The largest factor by which a range is widened. Some networks give features on even images that no photograph has."""


def hold_even_areas(prepared: PreparedGraph, input_range: tuple[float, float], patch: Tensor) -> None:
    """Widen the bounds of activations, so that they hold what even images of the size of a patch give.

    Only the middle of a feature map counts, as padding changes its borders. Bounds that would have to be widened more
    than by `WIDEST` stay as they are.
    """
    values: dict[str, list[Tensor]] = defaultdict(list)
    levels = torch.linspace(*input_range, GRAYS, dtype=patch.dtype, device=patch.device)
    with ExitStack() as stack, prepared.mode(Mode.OFF), torch.no_grad():
        for group, quantizer in prepared.of_role("activation").items():
            if not (quantizer.fixed or quantizer.dynamic):
                stack.callback(quantizer.register_forward_hook(partial(_keep_ends, values[group])).remove)
        for level in levels:
            prepared(torch.full_like(patch, float(level))[None])
    for group, ends in values.items():
        _widen(prepared, group, torch.cat(ends))


def _keep_ends(ends: list[Tensor], _module: nn.Module, _inputs: object, output: Tensor) -> None:
    middle = output[..., _middle(output, -2), _middle(output, -1)] if output.ndim == IMAGE_AXES else output
    ends.append(torch.stack([middle.amin(), middle.amax()]))


def _middle(values: Tensor, axis: int) -> slice:
    side = values.shape[axis]
    return slice(max(0, side // 2 - 2), side // 2 + 2)


def _widen(prepared: PreparedGraph, group: str, ends: Tensor) -> None:
    quantizer = prepared.quantizers[group]
    ends = ends.double() if quantizer.limits is None else ends.double().clamp(*quantizer.limits)
    bounds = quantizer.bounds
    wider = Bounds(torch.minimum(bounds.lower, ends.min()), torch.maximum(bounds.upper, ends.max()))
    if bool((wider.upper - wider.lower <= WIDEST * (bounds.upper - bounds.lower)).all()):
        quantizer.set_bounds(wider)
