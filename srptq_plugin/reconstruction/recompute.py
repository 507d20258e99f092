"""Recomputation of fake-quantized convolution inputs in the backward pass, which halves the memory of a step."""

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
    """A context in which autograd saves a function for each fake-quantized convolution input, instead of the tensor.

    The backward pass calls it and gets the same bits. Only tensors that convolutions alone read are recomputed:
    convolutions save their input whole and unchanged.
    """

    def __init__(self, prepared: PreparedGraph) -> None:
        super().__init__()
        # Recognized by storage, not by object: autograd hands its hooks a new tensor on the same storage. The
        # reference is weak, so that the tensor is freed after the forward.
        self._recompute: dict[StorageWeakRef, Recompute] = {}
        # The autograd graph holds this object through its hooks. Clear the cache on exit, or the tensors leak.
        self.callback(self._recompute.clear)
        for quantizer in _quantizers_before_convs(prepared):
            self.enter_context(quantizer.register_forward_hook(self._note))
        self.enter_context(saved_tensors_hooks(self._pack, _unpack))

    def _note(self, _quantizer: nn.Module, _inputs: object, output: Tensor) -> None:
        recompute = recompute_fn(output)
        if recompute is not None:
            self._recompute[StorageWeakRef(output.untyped_storage())] = recompute

    def _pack(self, tensor: Tensor) -> Tensor | Recompute:
        recompute = self._recompute.get(StorageWeakRef(tensor.untyped_storage()))
        # Detach: a node's saved output with a grad_fn would keep the node itself alive.
        return tensor.detach() if recompute is None else recompute


def _unpack(saved: Tensor | Recompute) -> Tensor:
    return saved if isinstance(saved, Tensor) else saved()


def _quantizers_before_convs(prepared: PreparedGraph) -> list[BoundedFakeQuantize]:
    convs = set(prepared.plan.convs)
    return [
        quantizer
        for group, quantizer in prepared.of_role("activation").items()
        if all(edge.consumer in convs for site in prepared.plan.groups[group] for edge in site.consumers)
    ]
