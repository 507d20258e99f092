"""Of the bounds that an observer offers for a site, those whose rounding moves the image least.

What rounding one tensor by e does to the image is J e, to first order. For random signs v on the image, v J comes
from one backward pass for all sites at once, and the mean of (v J e)^2 is |J e|^2. So a few passes of the float
network tell every candidate of every site apart, errors that add up over a map and errors that cancel included.
"""

from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from srptq_plugin.graph import PreparedGraph
from srptq_plugin.grid import Bounds, project
from srptq_plugin.quantizer import BoundedFakeQuantize, Mode, fake_quantize

Maps = Mapping[str, Sequence[Tensor]]
BATCH = 4


def choose_bounds(prepared: PreparedGraph, images: Tensor, draws: int = 4, seed: int = 0) -> None:
    """Set the bounds of each activation whose observer offers several."""
    offered = dict(_offers(prepared))
    if not offered:
        return
    errors = {group: torch.zeros(len(offers), dtype=torch.float64) for group, offers in offered.items()}
    generator = torch.Generator().manual_seed(seed)
    for batch in images.split(BATCH):
        with prepared.mode(Mode.OFF), _tapped(prepared, offered) as maps, torch.enable_grad():
            output = prepared(batch.detach().requires_grad_())
        signs = torch.randint(0, 2, (draws, *output.shape), generator=generator, dtype=output.dtype).to(output.device)
        pulls = [_pulls(output, maps, 2 * each - 1) for each in signs]
        for group, offers in offered.items():
            for n, bounds in enumerate(offers):
                errors[group][n] += _moved(prepared.quantizers[group], bounds, maps[group], [p[group] for p in pulls])
    for group, offers in offered.items():
        prepared.quantizers[group].set_bounds(offers[int(errors[group].argmin())])


def _offers(prepared: PreparedGraph) -> Generator[tuple[str, Sequence[Bounds]]]:
    for group, quantizer in prepared.of_role("activation").items():
        offers: Any = getattr(quantizer.observer, "offers", None)
        if offers is not None and not quantizer.fixed and len(found := offers()) > 1:
            yield group, found


@contextmanager
def _tapped(prepared: PreparedGraph, groups: Mapping[str, object]) -> Generator[Maps]:
    """What passes the quantizers of some groups during a forward pass, apart for each of their places."""
    maps: dict[str, list[Tensor]] = defaultdict(list)
    with ExitStack() as stack:
        for group in groups:
            handle = prepared.quantizers[group].register_forward_hook(partial(_tap, maps[group]))
            stack.callback(handle.remove)
        yield maps


def _tap(maps: list[Tensor], _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    maps.append(output.view_as(output))
    return maps[-1]


def _pulls(output: Tensor, maps: Maps, signs: Tensor) -> dict[str, list[Tensor]]:
    """What the image's pixels, with these signs, change by with each value of each map."""
    flat = [each for found in maps.values() for each in found]
    gradients = iter(torch.autograd.grad(output, flat, signs, retain_graph=True))
    return {group: [next(gradients) for _ in found] for group, found in maps.items()}


def _moved(
    quantizer: BoundedFakeQuantize, bounds: Bounds, maps: Sequence[Tensor], pulls: Sequence[Sequence[Tensor]]
) -> float:
    """How far the image moves, squared and summed over samples and signs."""
    qparams = project(bounds, quantizer.grid)
    with torch.no_grad():
        errors = [fake_quantize(each, qparams) - each for each in maps]
        moves = [sum((p * e).flatten(1).sum(1) for p, e in zip(pull, errors, strict=True)) for pull in pulls]
    return float(torch.stack(moves).double().square().sum())  # pyright: ignore[reportArgumentType] - tensors
