"""torchao's PT2E flow: recipes as a `Quantizer`, our observers inside stock quantizers, PaC on the result."""

from srptq_adapters.torchao.quantizers import SRQuantizer, with_observer
from srptq_adapters.torchao.torchao_toolkit import TorchaoToolkit, reconstruct

__all__ = ["SRQuantizer", "TorchaoToolkit", "reconstruct", "with_observer"]
