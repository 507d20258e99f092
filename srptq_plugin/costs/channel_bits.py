"""The bits that mixed precision gives to channels, measured on images: DAQ's equation 10 sums over them."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from srptq_plugin.runs.run import Run


def measure_channel_bits(run: Run, images: Iterable[Tensor]) -> Mapping[str, list[float]]:
    """Return the mean bits of each input channel over some images, by the layer that reads it.

    Layers without mixed precision are left out.
    """
    simulated = run.table.simulate(run.network)
    bits: dict[str, list[Tensor]] = {}
    with ExitStack() as stack, torch.no_grad():
        for group, quantizer in simulated.of_role("activation").items():
            measure: Callable[[Tensor], Tensor] | None = getattr(quantizer, "channel_bits", None)
            if measure is not None:
                note = partial(_note, bits.setdefault(group, []), measure)
                stack.callback(quantizer.register_forward_pre_hook(note).remove)
        for image in images:
            simulated(image)
    means = {group: torch.cat(rows).double().mean(0).tolist() for group, rows in bits.items()}
    groups = {edge.consumer: site.group for edge, site in run.table.plan.by_edge.items() if edge.input_index == 0}
    return {layer: means[group] for layer, group in groups.items() if group in means}


def _note(rows: list[Tensor], measure: Callable[[Tensor], Tensor], _module: nn.Module, inputs: tuple[Any, ...]) -> None:
    rows.append(measure(inputs[0]))
