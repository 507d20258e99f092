"""Bias correction (Nagel et al. 2019): each convolution's mean, by channel, as the float network has it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.utils.distributed import all_reduce_mean
from srptq_plugin.utils.progress import Progress, quiet

CORRECTED_ON = 32
"""Images that the means are taken over."""
Means = dict[str, Tensor]


def reconstruct(
    prepared: PreparedGraph,
    images: Tensor,
    *,
    progress: Progress = quiet,
    seed: int = 0,  # noqa: ARG001 - draws nothing
) -> Mapping[str, float]:
    """The reconstruction `bias-correction`: nothing but this, whether or not the image comes closer."""
    progress("correcting biases", 0, 0)
    prepared.set_mode(Mode.QUANTIZE)
    correct_biases(prepared, images[:CORRECTED_ON])
    return {"corrected": len(prepared.biases)}


def correct_biases(prepared: PreparedGraph, images: Tensor) -> None:
    """Correct every convolution in turn, each on what reaches it with those before it corrected.

    A convolution without a bias keeps what it has.
    """
    with torch.no_grad():
        with prepared.mode(Mode.OFF):
            wanted = _Means(prepared).of(images)
        _Correction(prepared, wanted).run(images)


class _Means(fx.Interpreter):
    """Runs a network and takes the mean of each channel behind its convolutions."""

    def __init__(self, prepared: PreparedGraph) -> None:
        network = Network(prepared.capture)
        super().__init__(prepared.capture)
        self.convs = {network.nodes[conv]: conv for conv in prepared.biases}
        self.means: Means = {}

    def of(self, images: Tensor) -> Means:
        self.run(images)
        return self.means

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        return self.behind(self.convs[n], output) if n in self.convs else output

    def behind(self, conv: str, output: Tensor) -> Tensor:
        self.means[conv] = output.mean((0, 2, 3))
        return output


class _Correction(_Means):
    """Moves each bias by what the mean is off, and goes on with the corrected map."""

    def __init__(self, prepared: PreparedGraph, wanted: Means) -> None:
        super().__init__(prepared)
        self.prepared, self.wanted = prepared, wanted

    def behind(self, conv: str, output: Tensor) -> Tensor:
        off = self.wanted[conv] - output.mean((0, 2, 3))
        all_reduce_mean([off])
        self.prepared.biases[conv].data += off
        return output + off[:, None, None]
