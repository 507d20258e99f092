"""The shares of several processes in observing and tuning. Observing gives the bounds of one process, to the bit."""

import copy
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.utils.distributed import deal, gather, is_first, rank, world_size
from srptq_plugin.utils.progress import Progress, quiet

logger = logging.getLogger(__name__)
Observers = dict[str, Observer]


def observe(prepared: PreparedGraph, batches: Sequence[Tensor], progress: Progress = quiet) -> None:
    """Run every batch through the observers in one of the processes. Bounds are set in the first only.

    Args:
        prepared: The graph, equal in all processes.
        batches: The batches of all processes.
        progress: Called before each batch of this process.
    """
    if world_size() == 1:
        prepared.observe(batches, progress)
        return
    # A graph that takes one image at a time shows its observers each image as a batch.
    parts = [part for batch in batches for part in batch.split(prepared.batch(len(batch)))]
    fresh = copy.deepcopy(_observers(prepared))
    prepared.set_mode(Mode.OBSERVE)
    with torch.no_grad():
        for begin in range(0, len(parts), world_size()):
            progress("observing", begin, len(parts))
            if begin + rank() < len(parts):
                prepared(parts[begin + rank()])
            _merge(prepared, fresh)
    if is_first():
        prepared.set_mode(Mode.QUANTIZE)
    progress("observing", len(parts), len(parts))


def own_share(patches: Tensor, batch: int | None) -> tuple[Tensor, int | None]:
    """Return this process's share of the patches, and of a reconstruction's batch if it has one.

    All processes together make the steps of one process. Every process gets the same number of patches.
    """
    count = world_size()
    if batch is not None and batch % count:
        raise SrptqError(
            f"reconstruction.batch: {batch} patches cannot be shared by {count} processes; give a multiple of {count}, "
            "or start fewer processes"
        )
    left_out = len(patches) % count
    if left_out and is_first():
        logger.warning("%d of %d patches are left out of tuning: %d processes", left_out, len(patches), count)
    share = deal(patches[: len(patches) - left_out])
    return share, None if batch is None else batch // count


def _merge(prepared: PreparedGraph, fresh: Observers) -> None:
    """Add one batch of each process to the first one's observers, in their order. The others start afresh."""
    # Batch by batch, not all at the end: floats that are added in another order have other last bits.
    own = _observers(prepared)
    for observers in gather({} if is_first() else own)[1:]:
        for group, observer in observers.items():
            own[group].merge(observer)
    if not is_first():
        for group, observer in copy.deepcopy(fresh).items():
            prepared.quantizers[group].observer = observer


def _observers(prepared: PreparedGraph) -> Observers:
    """Return the observers of activations. Weights are the same in every process."""
    quantizers = prepared.of_role("activation").items()
    return {group: quantizer.observer for group, quantizer in quantizers if quantizer.observer is not None}
