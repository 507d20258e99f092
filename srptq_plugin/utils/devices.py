"""Where tensors live, by the names that users give."""

import torch

from srptq_plugin.errors import SrptqError


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SrptqError(
            f"--device {name}: not there ({str(error).splitlines()[0]}); give cpu, cuda or auto"
        ) from error
    return device
