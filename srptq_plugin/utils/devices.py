"""Devices for tensors, by the names that users give."""

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
