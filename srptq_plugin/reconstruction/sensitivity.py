"""How the image answers to a change of any tensor that is quantized, all of them measured at once.

What a small change e of one tensor does to the image is J e. For random signs v on the image's pixels, v J comes
from one backward pass for every tensor, and the mean of (v J e)^2 over signs is |J e|^2.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from srptq_plugin.planning.prepared_graph import PreparedGraph, by_image
from srptq_plugin.quantization.quantizer import Mode

Maps = Mapping[str, Sequence[Tensor]]
"""By group, a tensor for each place that the group's quantizer is called at."""
BATCH = 4


def pulls(
    prepared: PreparedGraph, groups: Iterable[str], images: Tensor, draws: int, seed: int
) -> Iterator[tuple[Maps, Sequence[Maps]]]:
    """For some images at a time, what passes the quantizers of the float network, and v J for several v."""
    wanted = list(groups)
    generator = torch.Generator().manual_seed(seed)
    for batch in images.split(prepared.batch(BATCH)):
        with prepared.mode(Mode.OFF), _tapped(prepared, wanted) as maps, torch.enable_grad():
            output = prepared(batch.detach().requires_grad_())
        yield maps, [_pull(output, maps, signs) for signs in _signs(output, draws, generator)]


def block_shares(prepared: PreparedGraph, images: Tensor, draws: int = 4, seed: int = 0) -> Tensor:
    """How far, squared, the image moves when a block's map is off by a share of its norm; one on average."""
    generator = torch.Generator().manual_seed(seed)
    moves: list[Tensor] = []
    for batch in images.split(prepared.batch(BATCH)):
        with prepared.mode(Mode.OFF), torch.enable_grad():
            output, maps = prepared.capture(batch.detach().requires_grad_())
        for signs in _signs(output, draws, generator):
            gradients = torch.autograd.grad(output, maps, signs, retain_graph=True)
            pairs = zip(maps, gradients, strict=True)
            moves.append(torch.stack([_moved(*(by_image(each, len(batch)) for each in pair)) for pair in pairs]))
    total = torch.stack(moves).sum(0)
    return total / total.mean()


def _moved(features: Tensor, gradient: Tensor) -> Tensor:
    """An error's energy spreads evenly over a map's values: |J e|^2 = |e|^2 |J|^2 / n."""
    energies = features.detach().flatten(1).square().sum(1) * gradient.flatten(1).square().sum(1)
    return energies.mean() / features[0].numel()


def _signs(output: Tensor, draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    for signs in torch.randint(0, 2, (draws, *output.shape), generator=generator, dtype=output.dtype):
        yield 2 * signs.to(output.device) - 1


@contextmanager
def _tapped(prepared: PreparedGraph, groups: Iterable[str]) -> Generator[Maps]:
    maps: dict[str, list[Tensor]] = defaultdict(list)
    with ExitStack() as stack:
        for group in groups:
            handle = prepared.quantizers[group].register_forward_hook(partial(_tap, maps[group]))
            stack.callback(handle.remove)
        yield maps


def _tap(maps: list[Tensor], _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """Record a view for each place, so that each has its own gradient, frozen weights too."""
    view = output.view_as(output)
    maps.append(view if view.requires_grad else view.requires_grad_())
    return maps[-1]


def _pull(output: Tensor, maps: Maps, signs: Tensor) -> Maps:
    flat = [each for found in maps.values() for each in found]
    gradients = iter(torch.autograd.grad(output, flat, signs, retain_graph=True))
    return {group: [next(gradients) for _ in found] for group, found in maps.items()}
