"""Models that MQBench prepared, and the names of their tensors in the run that starts them."""

from typing import Any

from torch import fx

from helpers import networks
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.readback import PlacedQuantizer, iter_quantizers

IN_THE_RUN = {f"body.{block}.first/conv": f"body.{block}/relu" for block in (0, 1)} | {"add_mean/conv": "tail/conv"}
"""Names in the run. MQBench fuses a ReLU into the convolution before it, and the run folds the last mean shift."""
IMAGES = networks.images(4, seed=3)


def kinds(quantizer: str) -> dict[str, Any]:
    weights = "Fixed" if quantizer == "PACT" else quantizer  # PACT has one range, for activations.
    return {"w_fakequantize": f"{weights}FakeQuantize", "a_fakequantize": f"{quantizer}FakeQuantize"}


def by_name(model: fx.GraphModule) -> dict[str, PlacedQuantizer]:
    return {placed.name: placed for placed in iter_quantizers(Network(model))}
