"""The response of the image to a small change of each quantized tensor, measured for all tensors at once.

A small change e of one tensor moves the image by J e, with J the Jacobian of the image. For random signs v on the
image's pixels, one backward pass gives v J for every tensor. The mean of (v J e)^2 over signs is |J e|^2: signs of
different pixels are independent, so that their products cancel.
"""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from srptq_plugin.planning.prepared_graph import PreparedGraph, by_image
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.utils.distributed import all_reduce_mean

Maps = Mapping[str, Sequence[Tensor]]
"""By group, a tensor for each call of the group's quantizer."""
BATCH = 4
"""The most images in one backward pass."""


def iter_pulls(
    prepared: PreparedGraph, groups: Iterable[str], images: Tensor, draws: int, seed: int
) -> Iterator[tuple[Maps, Sequence[Maps]]]:
    """Yield the tensors that pass the quantizers of the float network, and v J for several v, batch by batch.

    Args:
        prepared: An observed graph.
        groups: The groups whose tensors are measured.
        images: Calibration images, [N, 3, H, W].
        draws: The number of sign images v for each batch.
        seed: The seed of the signs.
    """
    tapped = list(groups)
    generator = torch.Generator().manual_seed(seed)
    for batch in images.split(prepared.batch(BATCH)):
        # The image requires a gradient, so that all that depends on it is in the graph, also with frozen weights.
        with prepared.mode(Mode.OFF), _tap_quantizers(prepared, tapped) as maps, torch.enable_grad():
            output = prepared(batch.detach().requires_grad_())
        yield maps, [_pull(output, maps, signs) for signs in _draw_signs(output, draws, generator)]


def block_shares(prepared: PreparedGraph, images: Tensor, draws: int = 4, seed: int = 0) -> Tensor:
    """Return how far, squared, the image moves if a block's map is off by a share of its norm. The mean is 1."""
    generator = torch.Generator().manual_seed(seed)
    moves: list[Tensor] = []
    for batch in images.split(prepared.batch(BATCH)):
        with prepared.mode(Mode.OFF), torch.enable_grad():
            output, maps = prepared.capture(batch.detach().requires_grad_())
        for signs in _draw_signs(output, draws, generator):  # one forward serves all draws, which retain its graph
            gradients = torch.autograd.grad(output, maps, signs, retain_graph=True)
            pairs = zip(maps, gradients, strict=True)
            moves.append(
                torch.stack(
                    [
                        _expected_move(by_image(values, len(batch)), by_image(gradient, len(batch)))
                        for values, gradient in pairs
                    ]
                )
            )
    total = torch.stack(moves).sum(0)
    all_reduce_mean([total])
    return total / total.mean()


def _expected_move(features: Tensor, gradient: Tensor) -> Tensor:
    """Return |x|^2 |J|^2 / n, averaged over samples: |J e|^2 for errors of norm |x|, spread evenly over n values."""
    energies = features.detach().flatten(1).square().sum(1) * gradient.flatten(1).square().sum(1)
    return energies.mean() / features[0].numel()


def _draw_signs(output: Tensor, draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    # Drawn on the CPU, so that every device sees the same signs.
    for signs in torch.randint(0, 2, (draws, *output.shape), generator=generator, dtype=output.dtype):
        yield 2 * signs.to(output.device) - 1


@contextmanager
def _tap_quantizers(prepared: PreparedGraph, groups: Iterable[str]) -> Generator[Maps]:
    maps: dict[str, list[Tensor]] = defaultdict(list)
    with ExitStack() as stack:
        for group in groups:
            handle = prepared.quantizers[group].register_forward_hook(partial(_tap, maps[group]))
            stack.callback(handle.remove)
        yield maps


def _tap(maps: list[Tensor], _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """Record a view for each call, so that each call has its own gradient. Frozen weights get one too."""
    view = output.view_as(output)
    maps.append(view if view.requires_grad else view.requires_grad_())
    return maps[-1]


def _pull(output: Tensor, maps: Maps, signs: Tensor) -> Maps:
    """Return v J for every recorded tensor, from one backward pass."""
    flat = [values for tensors in maps.values() for values in tensors]
    gradients = iter(torch.autograd.grad(output, flat, signs, retain_graph=True))
    return {group: [next(gradients) for _ in tensors] for group, tensors in maps.items()}
