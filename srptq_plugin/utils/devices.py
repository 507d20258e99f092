"""Where tensors live, by the names that users give."""

import torch

from srptq_plugin.errors import ArgumentError


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError("device", f"not there ({reason}); give cpu, cuda or auto", name) from error
    return device
