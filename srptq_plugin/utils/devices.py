"""Devices for tensors by the names that users give, and threads."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from srptq_plugin.errors import ArgumentError


def device_of(name: str) -> torch.device:
    """Return the device with this name. `auto` is a GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # A well-formed name says nothing about the hardware. Only an allocation does.
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError("device", f"not available ({reason}); give cpu, cuda or auto", name) from error
    return device


@contextmanager
def one_thread() -> Generator[None]:
    """Compute small tensors on one thread. Several would wait for each other: for minutes, if other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
