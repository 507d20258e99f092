"""Threads for small tensors."""

import pytest
import torch

from srptq_plugin.utils.devices import one_thread


def fail_inside(threads: list[int]) -> None:
    with one_thread():
        threads.append(torch.get_num_threads())
        raise ValueError("inside")


def test_one_thread_is_used_inside_alone() -> None:
    before, inside = torch.get_num_threads(), list[int]()
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="inside"):
        fail_inside(inside)
    assert (inside, torch.get_num_threads()) == ([1], 2)
    torch.set_num_threads(before)
