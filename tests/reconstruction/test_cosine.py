"""The cosine of two maps and its gradient, compared with plain arithmetic."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.reconstruction.cosine import cosines
from srptq_plugin.reconstruction.teacher import normalized

gradcheck: Any = torch.autograd.gradcheck


def maps(seed: int) -> Tensor:
    return torch.randn(3, 4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_matches_finite_differences() -> None:
    targets = normalized(maps(1))
    assert gradcheck(partial(cosines, targets=targets), (maps(0).requires_grad_(),))


def test_values_are_cosines() -> None:
    values = cosines(maps(0), normalized(maps(1)))
    torch.testing.assert_close(values, torch.cosine_similarity(maps(0).flatten(1), maps(1).flatten(1)))


def test_half_precision_targets_are_widened() -> None:
    values = cosines(maps(0).float(), normalized(maps(0)).half())
    torch.testing.assert_close(values, torch.ones(3), atol=1e-3, rtol=0)


def test_a_map_of_zeros_has_no_direction() -> None:
    dark = torch.zeros(3, 4, 5, 2, requires_grad=True)
    values = cosines(dark, normalized(maps(1).float()))
    assert torch.equal(values, torch.zeros(3))
