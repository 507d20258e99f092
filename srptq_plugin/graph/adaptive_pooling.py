"""Adaptive max pooling to a size that depends on the image's. torch alone traces it for the example's size only."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SymbolicPooling(TorchFunctionMode):
    """Gathers the windows of adaptive max pooling within this context, if symbols say how many there are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is functional.adaptive_max_pool2d and not options.get("return_indices"):
            image, windows = (*args, *options.values())[:2]
            if isinstance(windows, (tuple, list)) and any(isinstance(count, SymInt) for count in windows):
                return pool_windows(image, *windows)
        return func(*args, **options)


def pool_windows(image: Tensor, rows: int | None, columns: int | None) -> Tensor:
    """Return the largest value of each of the windows that cover an image evenly. None leaves an axis as it is.

    >>> image = torch.rand(1, 2, 7, 9)
    >>> torch.equal(pool_windows(image, 3, None), functional.adaptive_max_pool2d(image, (3, None)))
    True
    """
    for axis, windows in ((-2, rows), (-1, columns)):
        if windows is not None:
            image = _pool_axis(image, axis, windows)
    return image


def _pool_axis(image: Tensor, axis: int, windows: int) -> Tensor:
    length = image.shape[axis]
    numbers = torch.arange(windows, device=image.device)
    starts = numbers * length // windows
    ends = ((numbers + 1) * length + windows - 1) // windows
    # Windows differ in length. The shorter ones read their last value again, which leaves the maximum as it is.
    longest = (length + windows - 1) // windows + 1
    places = torch.minimum(starts[:, None] + torch.arange(longest, device=image.device), ends[:, None] - 1)
    return image.index_select(axis, places.flatten()).unflatten(axis, (windows, longest)).amax(axis)
