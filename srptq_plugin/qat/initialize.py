"""initialize(): a prepared model starts training from a run, whichever toolkit made either."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Site
from srptq_plugin.planning.readback import PlacedQuantizer, iter_quantizers
from srptq_plugin.plugins.hosts import installed_adopters
from srptq_plugin.plugins.protocols import Adopter
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.transfer import Transfer
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.runs.run import Run

ENDS = ("lower", "upper")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitReport:
    """The sites that got bounds, and those for which the run has none: calibrate these."""

    sites: tuple[str, ...]
    left: tuple[str, ...]


def initialize(prepared: fx.GraphModule, run: Path | str, *, registry: Registry | None = None) -> InitReport:
    """Start a prepared model from a run: its parameters, and the bounds of each fake-quantizer.

    Afterwards the model computes what the run simulates, as far as it quantizes the same tensors. Tensors are matched
    by who reads them, so a run of one toolkit starts a model of another. Bits and grid stay the model's own.
    Quantizers that have bounds quantize and can be trained. All others observe, and are named in a warning.

    Args:
        prepared: the network of the run, prepared by MQBench or torchao. Its parameters change in place, as by
            `load_state_dict`: channels are scaled and weights and biases tuned where the run has done so.
        run: a run folder.
        registry: where toolkits are looked up.

    Raises:
        SrptqError: the model is of another network, even with scaled channels. Nothing has changed then.
    """
    registry = registry or Registry()
    opened = Run.open(run, registry)
    transfer = Transfer(prepared, opened)
    transfer.apply()
    device = next(prepared.parameters()).device
    groups = _by_quantizer(Network(prepared))
    foreign = any(not isinstance(members[0].quantizer, BoundedFakeQuantize) for members in groups)
    adopters = list(installed_adopters(registry)) if foreign else []
    started, left, lost = list[str](), list[str](), list[str]()
    for members in groups:
        matches = {each: site for each in members if (site := _site(opened, each)) is not None}
        names, quantizer = [each.name for each in members], members[0].quantizer
        if matches and _start(members[0], _bounds(matches, opened, transfer), device, adopters):
            started += names
            if not _resumed(quantizer, [opened.table.states.get(site.group, {}) for site in matches.values()]):
                lost += names
        else:
            _observe(quantizer)
            left += names
    if left:
        logger.warning("%s has no bounds for %s: they observe until you enable quantization", run, ", ".join(left))
    if lost:
        logger.warning("%s has gates for %s, which these have not; prepare with its recipe", run, ", ".join(lost))
    return InitReport(tuple(started), tuple(left))


def _by_quantizer(network: Network) -> list[list[PlacedQuantizer]]:
    """Group what one fake-quantizer is shared by."""
    groups: dict[int, list[PlacedQuantizer]] = defaultdict(list)
    for each in iter_quantizers(network):
        groups[id(each.quantizer)].append(each)
    return list(groups.values())


def _site(run: Run, each: PlacedQuantizer) -> Site | None:
    """Match a tensor by its readers: its name depends on what was fused with the operation before it."""
    sites = (site for site in run.table.plan.sites if set(site.consumers) & set(each.consumers))
    return next(sites, None)


def _bounds(matches: Mapping[PlacedQuantizer, Site], run: Run, transfer: Transfer) -> Bounds:
    """The bounds of all tensors of a quantizer together: one range, or one for each channel, as it has it."""
    (first, site), *_ = matches.items()
    ranges = [_of_site(other, run, transfer) for other in matches.values()]
    if not _per_channel(first.quantizer):
        return Bounds.of(min(each.outermost[0] for each in ranges), max(each.outermost[1] for each in ranges))
    channels = len(run.table.weights[site.name]) if site.role == "weight" else ranges[0].lower.numel()
    lower = torch.stack([each.lower.expand(channels) for each in ranges]).amin(0)
    return Bounds.of(lower, torch.stack([each.upper.expand(channels) for each in ranges]).amax(0))


def _of_site(site: Site, run: Run, transfer: Transfer) -> Bounds:
    bounds = run.table.qparams[site.name].bounds
    divisor = transfer.divisor(site.source) if site.role == "weight" else None
    if divisor is None:
        return bounds
    ends = torch.stack([bounds.lower / divisor, bounds.upper / divisor])
    return Bounds.of(ends.amin(0), ends.amax(0))


def _per_channel(quantizer: nn.Module) -> bool:
    if isinstance(quantizer, BoundedFakeQuantize):
        return quantizer.grid.channel_axis is not None
    return getattr(quantizer, "ch_axis", -1) != -1


def _start(each: PlacedQuantizer, bounds: Bounds, device: torch.device, adopters: Sequence[Adopter]) -> bool:
    """Give a quantizer its bounds. False for one that no toolkit knows how to start."""
    if isinstance(each.quantizer, BoundedFakeQuantize):
        each.quantizer.set_bounds(Bounds(bounds.lower.to(device), bounds.upper.to(device)))
        each.quantizer.set_mode(Mode.QUANTIZE)
        return True
    return any(toolkit.adopt(each.quantizer, bounds) for toolkit in adopters)


def _resumed(quantizer: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> bool:
    """Take over a state; whether a quantizer of ours, also in a toolkit's shape, has all that the run's had."""
    ours = next((each for each in quantizer.modules() if isinstance(each, BoundedFakeQuantize)), None)
    if ours is None:
        return all(state.keys() <= set(ENDS) for state in states)
    for state in states:
        ours.restore(state)
    return all(state.keys() <= ours.state().keys() for state in states)


def _observe(quantizer: Any) -> None:
    if isinstance(quantizer, BoundedFakeQuantize):
        quantizer.set_mode(Mode.OBSERVE)
    elif hasattr(quantizer, "enable_observer"):
        quantizer.enable_observer()
        quantizer.disable_fake_quant()
