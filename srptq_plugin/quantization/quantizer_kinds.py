"""The modules that count as quantizers when a prepared graph is read, from whichever toolkit they come."""

from abc import ABC

from torch.ao.quantization import FakeQuantizeBase, ObserverBase

from srptq_plugin.quantization.quantizer import BoundedFakeQuantize


class AnyQuantizer(ABC):  # noqa: B024 - classes register, none implements it
    """A fake-quantizer or observer of any toolkit.

    An adapter registers those base classes of its toolkit that are not torch's: `AnyQuantizer.register(Base)`. A layer
    that holds quantizers of its parameters names each after its parameter: `weight...`, `bias...`.
    """


for _kind in (BoundedFakeQuantize, FakeQuantizeBase, ObserverBase):
    AnyQuantizer.register(_kind)
