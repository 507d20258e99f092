"""FQSR's self-supervised calibration: the distance by which quantizers move values, as a loss."""

from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn


@contextmanager
def collect_distances(quantizers: Iterable[nn.Module]) -> Generator[list[Tensor]]:
    """Collect a term for each forward pass of each quantizer: the mean of |Q(v) - v| over the tensor, equation (8).

    >>> import torch
    >>> rounding = nn.Hardtanh()
    >>> with collect_distances([rounding]) as terms:
    ...     _ = rounding(torch.tensor([0.5, 3.0]))
    >>> terms
    [tensor(1.)]
    """
    terms: list[Tensor] = []
    with ExitStack() as stack:
        for quantizer in quantizers:
            handle = quantizer.register_forward_hook(partial(_listen, terms))
            stack.callback(handle.remove)
        yield terms


def _listen(terms: list[Tensor], _module: nn.Module, inputs: tuple[Tensor, ...], rounded: Tensor) -> None:
    terms.append((rounded - inputs[0]).abs().mean())
