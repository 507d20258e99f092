"""Threads for small tensors."""

import pytest
import torch

from srptq_plugin.utils.devices import one_thread


def test_one_thread_is_used_inside_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="inside"), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("inside")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
