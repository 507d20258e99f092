from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from .fake_quantize import AdaRoundFakeQuantize
from .utils import deepcopy_graphmodule
from .utils.state import disable_all, enable_quantization


def ptq_reconstruction(
    model: fx.GraphModule,
    cali_data: Sequence[Tensor],  # noqa: ARG001
    config: Any,
    graph_module_list: Sequence[str] | None = None,  # noqa: ARG001
) -> fx.GraphModule:
    if config.pattern not in ("layer", "block"):
        raise NotImplementedError
    tuned = deepcopy_graphmodule(model)
    disable_all(model)
    for layer in tuned.modules():
        quantizer = getattr(layer, "weight_fake_quant", None)
        if isinstance(quantizer, AdaRoundFakeQuantize):
            quantizer.init(layer.weight)  # pyright: ignore[reportArgumentType]
    enable_quantization(tuned)
    return tuned
