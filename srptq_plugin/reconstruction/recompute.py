"""What convolutions read is rounded again in the backward pass, rather than kept: that halves what a step keeps."""

from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.fake_quantize import recompute_fn
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

Recompute = Callable[[], Tensor]


class RecomputeActivations(ExitStack):
    """A forward within it keeps how to round a tensor again; from there a backward pass gets the same bits.

    Only what goes to convolutions alone, as they neither change it nor look at a part of it.
    """

    def __init__(self, prepared: PreparedGraph) -> None:
        super().__init__()
        self._rounded: dict[StorageWeakRef, Recompute] = {}
        self.callback(self._rounded.clear)  # what a graph keeps has this object: none would be freed
        for quantizer in _read_by_convolutions(prepared):
            self.enter_context(quantizer.register_forward_hook(self._note))
        self.enter_context(saved_tensors_hooks(self._pack, _unpack))

    def _note(self, _quantizer: nn.Module, _read: object, given: Tensor) -> None:
        recompute = recompute_fn(given)
        if recompute is not None:
            self._rounded[StorageWeakRef(given.untyped_storage())] = recompute

    def _pack(self, tensor: Tensor) -> Tensor | Recompute:
        kept = self._rounded.get(StorageWeakRef(tensor.untyped_storage()))
        return tensor.detach() if kept is None else kept  # with its history, what a node gives would keep the node


def _unpack(kept: Tensor | Recompute) -> Tensor:
    return kept if isinstance(kept, Tensor) else kept()


def _read_by_convolutions(prepared: PreparedGraph) -> list[BoundedFakeQuantize]:
    convs = set(prepared.plan.convs)
    return [
        quantizer
        for group, quantizer in prepared.of_role("activation").items()
        if all(edge.consumer in convs for site in prepared.plan.groups[group] for edge in site.consumers)
    ]
