"""How near a runtime can come to the simulation: the noise of roundings that a last bit flips."""

import warnings
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

from srptq_plugin.data.metrics import psnr
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import Forward, Run

LEAST_PSNR = 50.0
"""The least PSNR in dB between simulation and runtime that passes at 8 bits, unless the simulation's own is near it."""
OWN_SLACK = 3.0
"""Decibels that a runtime may lie below the simulation's own PSNR: a second error of the same power costs 3 dB."""


def exact_simulation(run: Run, image: Array) -> Forward:
    """Return the simulation in double precision, or in single if the network cannot run in double on this image.

    Runtimes sum products of integers exactly. Sums in single precision have errors, which flip roundings near a tie.
    """
    exact = run.simulation(double=True)
    try:
        exact(image)
    except RuntimeError:  # the network holds constants in single precision
        return run.simulation()
    return exact


def own_psnr(run: Run, exact: Array, crops: Sequence[Array]) -> float:
    """Return the PSNR between the exact simulation and the least alike of those whose last bits differ.

    These are the simulation in single precision, with its sums in two orders, and the one in double with the
    errors of the target's floats at each activation. A difference in the last bit flips a rounding, and every
    convolution spreads it. A runtime, whose last bits differ too, cannot be expected to come nearer.

    Args:
        run: The run.
        exact: What the exact simulation makes of the crops, flat.
        crops: Images in the range of the network.
    """
    others = [_outputs(run.simulation(), crops)]
    with suppress(RuntimeError):  # the network holds constants in single precision
        others.append(_outputs(run.simulation(double=True, noise=2.0**-run.rules.float_bits), crops))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns about TF32 on Intel GPUs, which is not used here
        # Without oneDNN, torch's own kernels sum in another order. Any other difference would be a bug.
        with torch.backends.mkldnn.flags(enabled=False):
            others.append(_outputs(run.simulation(), crops))
    low, high = run.input_range
    return min(psnr(exact, other, high - low) for other in others)


def _outputs(simulation: Forward, crops: Sequence[Array]) -> Array:
    return np.concatenate([simulation(crop).ravel() for crop in crops])


def least_psnr(own: float | None) -> float:
    """Return the least PSNR in dB that passes at 8 bits.

    >>> least_psnr(None), least_psnr(54.0), least_psnr(45.5)
    (50.0, 50.0, 42.5)

    Args:
        own: The PSNR between the simulation and itself, or None if it does not matter or is infinite.
    """
    return LEAST_PSNR if own is None else min(LEAST_PSNR, own - OWN_SLACK)
