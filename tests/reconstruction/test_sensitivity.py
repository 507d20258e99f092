"""Shares of blocks in the feature loss, compared with measured moves of the image."""

from typing import Any

import pytest
import torch
from helpers import networks
from helpers.tunings import IMAGES
from torch import Tensor, fx

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.reconstruction.sensitivity import block_shares


class Disturbed(fx.Interpreter):
    """An interpreter that adds noise of a thousandth of each sample's norm to one map."""

    def __init__(self, module: fx.GraphModule, node: fx.Node, seed: int) -> None:
        super().__init__(module)
        self.node, self.generator = node, torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n is not self.node:
            return output
        noise = torch.randn(output.shape, generator=self.generator)
        share = output.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
        return output + 1e-3 * noise * share[:, None, None, None]


def image_moved_by(prepared: PreparedGraph, block: str, exact: Tensor) -> float:
    """Return the squared change of the image by small random errors of one block, a share of its norm."""
    network = Network(prepared.module)
    node = network.nodes[block]
    total = 0.0
    for seed in range(16):
        disturbed = Disturbed(prepared.module, node, seed).run(IMAGES)[0]
        total += float((disturbed - exact).square().sum())
    return total


def test_block_shares_predict_moves_of_the_image() -> None:
    prepared = networks.calibrated("imdn", 4, "onnxruntime")
    shares = block_shares(prepared, IMAGES)
    assert shares.mean() == pytest.approx(1)
    with prepared.mode(Mode.OFF), torch.no_grad():
        exact = prepared(IMAGES)
        errors = [image_moved_by(prepared, block, exact) for block in prepared.plan.blocks]
    ratios = shares / torch.tensor(errors)
    assert ratios.max() / ratios.min() < 1.5
    assert max(errors) / min(errors) > 1.1
