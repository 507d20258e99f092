"""initialise(): a freshly prepared model starts from the bounds of a run, whichever toolkit made either."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from srptq_plugin.activation import installed_hosts
from srptq_plugin.contracts import Host
from srptq_plugin.errors import SrptqError
from srptq_plugin.grid import Bounds
from srptq_plugin.network import Network
from srptq_plugin.placed import Placed, placed
from srptq_plugin.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.registry import Registry
from srptq_plugin.runs.run import TABLE
from srptq_plugin.sites import Site
from srptq_plugin.table import QuantTable, magnitudes

CLOSE = 1e-3
ENDS = ("lower", "upper")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """The sites that got bounds, and those for which the run has none: calibrate these."""

    sites: tuple[str, ...]
    left: tuple[str, ...]


def initialise(prepared: fx.GraphModule, run: Path | str, *, registry: Registry | None = None) -> Started:
    """Give each fake-quantizer of a prepared model the bounds that a run found for the same tensor.

    Tensors are known by who reads them, so a run of one toolkit starts a model of another. The quantizers quantize
    afterwards and can be trained; those that the run knows nothing of observe. Bits and grid stay the model's own.
    DDTB's gates come along where the model has a place for them, and are named where it has not.
    """
    path = Path(run)
    table = QuantTable.load(path / TABLE if path.is_dir() else path)
    hosts = [host for _, host in installed_hosts(registry or Registry())]
    network = Network(prepared)
    found, left, lost = list[str](), list[str](), list[str]()
    for each in placed(network):
        site = _site(table, each)
        bounds = table.qparams[site.name].bounds if site and _is_same(table, site, each, prepared) else None
        if bounds is not None and _start(each, _fitted(bounds, each, prepared), hosts):
            found.append(each.name)
            if site and not _resumed(each.quantizer, table.states.get(site.group, {})):
                lost.append(each.name)
        else:
            _observe(each.quantizer)
            left.append(each.name)
    if not found:
        raise SrptqError(f"{path}: none of its sites is in this model; prepare the network that the run was made of")
    if left:
        logger.warning("%s has no bounds for %s: they observe until you enable quantization", path, ", ".join(left))
    if lost:
        logger.warning("%s has gates for %s, which these have not; prepare with its recipe", path, ", ".join(lost))
    return Started(tuple(found), tuple(left))


def _site(table: QuantTable, each: Placed) -> Site | None:
    """By the readers of a tensor: what it is called depends on what was fused with the operation before it."""
    wanted = (site for site in table.plan.sites if set(site.consumers) & set(each.consumers))
    return next((site for site in wanted if site.role == each.role), None)


def _is_same(table: QuantTable, site: Site, each: Placed, prepared: fx.GraphModule) -> bool:
    """Whether a weight is what the run quantized: one of the two may have something folded into it."""
    if each.role == "activation":
        return True
    weight, integers = _weight(each, prepared), table.weights[site.name]
    if weight.shape != integers.shape:
        shapes = f"shape {tuple(weight.shape)}, the run has {tuple(integers.shape)}"
        raise SrptqError(f"site {each.name}: {shapes}; it is of another network")
    return torch.allclose(magnitudes(weight).cpu(), table.norms[site.name], rtol=CLOSE, atol=0)


def _weight(each: Placed, prepared: fx.GraphModule) -> Tensor:
    """The weight as its quantizer sees it, scaled by the batch norm that it was fused with."""
    weight = prepared.get_parameter(each.name).detach()
    norm = getattr(prepared.get_submodule(each.name.rpartition(".")[0]), "bn", None)
    if norm is None:
        return weight
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale.detach().reshape(-1, *[1] * (weight.ndim - 1))


def _fitted(bounds: Bounds, each: Placed, prepared: fx.GraphModule) -> Bounds:
    """One range, or one for each channel, as the quantizer has it."""
    if not _per_channel(each.quantizer):
        return Bounds.of(bounds.lower.min(), bounds.upper.max())
    channels = len(prepared.get_parameter(each.name)) if each.role == "weight" else bounds.lower.numel()
    return Bounds.of(*(end.expand(channels).clone() for end in (bounds.lower, bounds.upper)))


def _per_channel(quantizer: nn.Module) -> bool:
    if isinstance(quantizer, BoundedFakeQuantize):
        return quantizer.grid.axis is not None
    return getattr(quantizer, "ch_axis", -1) != -1


def _start(each: Placed, bounds: Bounds, hosts: Sequence[Host]) -> bool:
    if isinstance(each.quantizer, BoundedFakeQuantize):
        each.quantizer.set_bounds(bounds)
        each.quantizer.set_mode(Mode.QUANTIZE)
        return True
    return any(host.adopt(each.quantizer, bounds) for host in hosts)


def _resumed(quantizer: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Take over a state; whether a quantizer of ours, also in a toolkit's shape, has all that the run's had."""
    ours = next((each for each in quantizer.modules() if isinstance(each, BoundedFakeQuantize)), None)
    if ours is None:
        return state.keys() <= set(ENDS)
    ours.resume(state)
    return state.keys() <= ours.state().keys()


def _observe(quantizer: Any) -> None:
    if isinstance(quantizer, BoundedFakeQuantize):
        quantizer.set_mode(Mode.OBSERVE)
    elif hasattr(quantizer, "enable_observer"):
        quantizer.enable_observer()
        quantizer.disable_fake_quant()
