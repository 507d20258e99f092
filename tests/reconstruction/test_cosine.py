"""The cosine of two maps and its gradient, beside plain arithmetic."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from srptq_plugin.reconstruction.cosine import cosines
from srptq_plugin.reconstruction.teacher import normalized

gradcheck: Any = torch.autograd.gradcheck


def maps(seed: int) -> Tensor:
    return torch.randn(3, 4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_is_that_of_the_values() -> None:
    targets = normalized(maps(1))
    assert gradcheck(partial(cosines, targets=targets), (maps(0).requires_grad_(),))


def test_the_values_are_cosines() -> None:
    found = cosines(maps(0), normalized(maps(1)))
    torch.testing.assert_close(found, torch.cosine_similarity(maps(0).flatten(1), maps(1).flatten(1)))


def test_targets_of_half_precision_are_widened() -> None:
    found = cosines(maps(0).float(), normalized(maps(0)).half())
    torch.testing.assert_close(found, torch.ones(3), atol=1e-3, rtol=0)


def test_a_map_of_zeros_has_no_direction() -> None:
    dark = torch.zeros(3, 4, 5, 2, requires_grad=True)
    found = cosines(dark, normalized(maps(1).float()))
    assert torch.equal(found, torch.zeros(3))
