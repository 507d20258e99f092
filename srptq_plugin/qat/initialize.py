"""initialize(): start the training of a prepared model from a run, whichever toolkit made either."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import disable_fake_quant, enable_observer

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.plan import Site
from srptq_plugin.planning.readback import PlacedQuantizer, iter_quantizers
from srptq_plugin.plugins.hosts import Adopter, installed_adopters
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.transfer import Transfer
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.runs.run import Run

ENDS = ("lower", "upper")
"""The keys of a quantizer's state that every kind can restore: its bounds."""
OWN_PACKAGES = ("torch.", "srptq_plugin.")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitReport:
    """The sites that got bounds, and the sites for which the run has none. Calibrate the latter."""

    sites: tuple[str, ...]
    left: tuple[str, ...]


def initialize(prepared: fx.GraphModule, run: Path | str, *, registry: Registry | None = None) -> InitReport:
    """Start a prepared model from a run: its parameters, and the bounds of each fake-quantizer.

    Afterwards the model computes what the run simulates, as far as it quantizes the same tensors. Tensors are matched
    by who reads them, so a run of one toolkit starts a model of another. Bits and grid stay the model's own.
    Quantizers that have bounds quantize and can be trained. All others observe, and are named in a warning.

    Args:
        prepared: the network of the run, prepared by MQBench or torchao. Its parameters change in place, as by
            `load_state_dict`: channels are rotated and scaled, and weights and biases tuned where the run has done so.
        run: a run folder.
        registry: where toolkits are looked up.

    Raises:
        SrptqError: the model is of another network, even with rotated and scaled channels. Nothing has changed then.
    """
    registry = registry or Registry()
    opened = Run.open(run, registry)
    adopters = _adopters(prepared, registry)
    transfer = Transfer(prepared, opened)
    transfer.apply()
    device = next(prepared.parameters()).device
    started, left, lost = list[str](), list[str](), list[str]()
    for members in _by_quantizer(Network(prepared)):
        matches = {placed: site for placed in members if (site := _match(opened, placed)) is not None}
        names, quantizer = [placed.name for placed in members], members[0].quantizer
        owner = next((toolkit for toolkit in adopters if toolkit.owns(quantizer)), None)
        if matches and _start(quantizer, _joint_bounds(matches, opened, transfer, owner), device, owner):
            started += names
            if not _restore(quantizer, [opened.table.states.get(site.group, {}) for site in matches.values()]):
                lost += names
        else:
            _observe(quantizer, owner)
            left += names
    if left:
        logger.warning("%s has no bounds for %s: they observe until you enable quantization", run, ", ".join(left))
    if lost:
        logger.warning("%s has gates for %s, which these have not; prepare with its recipe", run, ", ".join(lost))
    return InitReport(tuple(started), tuple(left))


def _adopters(prepared: fx.GraphModule, registry: Registry) -> Sequence[Adopter]:
    """Load the installed toolkits if the model may have fake-quantizers that are theirs.

    This comes before the graph is read: loading a toolkit registers its classes as quantizers.
    """
    modules = (module for module in prepared.modules() if not isinstance(module, BoundedFakeQuantize))
    foreign = any(not type(module).__module__.startswith(OWN_PACKAGES) for module in modules)
    return list(installed_adopters(registry)) if foreign else []


def _by_quantizer(network: Network) -> list[list[PlacedQuantizer]]:
    """Group the places that share one fake-quantizer."""
    groups: dict[int, list[PlacedQuantizer]] = defaultdict(list)
    for placed in iter_quantizers(network):
        groups[id(placed.quantizer)].append(placed)
    return list(groups.values())


def _match(run: Run, placed: PlacedQuantizer) -> Site | None:
    """Match a tensor by its readers. Its name depends on what was fused with the operation before it."""
    sites = (site for site in run.table.plan.sites if set(site.consumers) & set(placed.consumers))
    return next(sites, None)


def _joint_bounds(
    matches: Mapping[PlacedQuantizer, Site], run: Run, transfer: Transfer, owner: Adopter | None
) -> Bounds:
    """Return bounds that hold all tensors of a quantizer: one pair, or one for each channel, as the quantizer has."""
    (first, site), *_ = matches.items()
    bounds = [_site_bounds(match, run, transfer) for match in matches.values()]
    axis = _channel_axis(first.quantizer, owner)
    if axis is None:
        ends = [pair.outermost for pair in bounds]
        return Bounds.of(min(lower for lower, _ in ends), max(upper for _, upper in ends))
    channels = run.table.weights[site.name].shape[axis] if site.role == "weight" else bounds[0].lower.numel()
    # A run with one pair a tensor starts a model with one pair a channel: each channel gets the tensor's pair.
    lower = torch.stack([pair.lower.expand(channels) for pair in bounds]).amin(0)
    return Bounds.of(lower, torch.stack([pair.upper.expand(channels) for pair in bounds]).amax(0))


def _site_bounds(site: Site, run: Run, transfer: Transfer) -> Bounds:
    bounds = run.table.qparams[site.name].bounds
    divisor = transfer.divisor(site.source) if site.role == "weight" else None
    if divisor is None:
        return bounds
    # A negative divisor (the gamma of a batch norm may be one) swaps the ends of its channel.
    ends = torch.stack([bounds.lower / divisor, bounds.upper / divisor])
    return Bounds.of(ends.amin(0), ends.amax(0))


def _channel_axis(quantizer: nn.Module, owner: Adopter | None) -> int | None:
    if isinstance(quantizer, BoundedFakeQuantize):
        return quantizer.grid.channel_axis
    return None if owner is None else owner.channel_axis(quantizer)


def _start(quantizer: nn.Module, bounds: Bounds, device: torch.device, owner: Adopter | None) -> bool:
    """Set a quantizer's bounds and let it quantize. Return whether anybody knows how."""
    if isinstance(quantizer, BoundedFakeQuantize):
        quantizer.set_bounds(Bounds(bounds.lower.to(device), bounds.upper.to(device)))
        quantizer.set_mode(Mode.QUANTIZE)
        return True
    return owner is not None and owner.adopt(quantizer, bounds)


def _restore(quantizer: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> bool:
    """Restore the states of a run's quantizers, and return whether this quantizer holds all of their keys.

    A quantizer in a toolkit's shape holds one of ours as a child. A toolkit's own holds nothing but bounds.
    """
    bounded = next((module for module in quantizer.modules() if isinstance(module, BoundedFakeQuantize)), None)
    if bounded is None:
        return all(state.keys() <= set(ENDS) for state in states)
    for state in states:
        bounded.restore(state)
    return all(state.keys() <= bounded.state().keys() for state in states)


def _observe(quantizer: nn.Module, owner: Adopter | None) -> None:
    if isinstance(quantizer, BoundedFakeQuantize):
        quantizer.set_mode(Mode.OBSERVE)
    elif owner is not None:
        owner.observe(quantizer)
    else:
        # Torch's own fake-quantizers belong to no toolkit. Its switches change nothing on any other module.
        enable_observer(quantizer)
        disable_fake_quant(quantizer)
