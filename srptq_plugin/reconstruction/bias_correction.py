"""Bias correction (Nagel et al. 2019): biases that give each output channel the mean of the float network."""

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
"""The number of images over which means are taken."""
Means = dict[str, Tensor]
"""The mean of each output channel, by the key of the convolution."""


def reconstruct(
    prepared: PreparedGraph,
    images: Tensor,
    *,
    progress: Progress = quiet,
    seed: int = 0,  # noqa: ARG001 - draws nothing
) -> Mapping[str, float]:
    """Correct biases and nothing else: the reconstruction `bias-correction`.

    The corrected biases stay, whether or not the output image comes closer to the float network's.
    """
    progress("correcting biases", 0, 0)
    prepared.set_mode(Mode.QUANTIZE)
    correct_biases(prepared, images[:CORRECTED_ON])
    return {"corrected": len(prepared.biases)}


def correct_biases(prepared: PreparedGraph, images: Tensor) -> None:
    """Correct the bias of every convolution, in order. Each one reads maps that are corrected already.

    Convolutions without a bias are left as they are.
    """
    with torch.no_grad():
        with prepared.mode(Mode.OFF):
            target = _ChannelMeans(prepared).measure(images)
        _Correction(prepared, target).measure(images)


class _ChannelMeans(fx.Interpreter):
    """An interpreter that takes the mean of each output channel of the convolutions."""

    def __init__(self, prepared: PreparedGraph) -> None:
        network = Network(prepared.capture)
        super().__init__(prepared.capture)
        self.convs = {network.nodes[conv]: conv for conv in prepared.biases}
        self.means: Means = {}

    def measure(self, images: Tensor) -> Means:
        self.run(images)
        return self.means

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        return self.on_output(self.convs[n], output) if n in self.convs else output

    def on_output(self, conv: str, output: Tensor) -> Tensor:
        """Return the feature map with which the network goes on."""
        self.means[conv] = output.mean((0, 2, 3))
        return output


class _Correction(_ChannelMeans):
    """An interpreter that moves each bias by the difference of the means, and goes on with the corrected map."""

    def __init__(self, prepared: PreparedGraph, target: Means) -> None:
        super().__init__(prepared)
        self.prepared, self.target = prepared, target

    def on_output(self, conv: str, output: Tensor) -> Tensor:
        difference = self.target[conv] - output.mean((0, 2, 3))
        # Averaged before it is used, so that every process has the same biases and runs on with the same network.
        all_reduce_mean([difference])
        self.prepared.biases[conv].data += difference
        # A bias adds to its output. Adding the difference here saves a second convolution.
        return output + difference[:, None, None]
