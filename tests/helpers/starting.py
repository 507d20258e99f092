"""For tests of initialize(): what a started model has to draw, and how near it is."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.planning.readback import iter_quantizers
from srptq_plugin.runs.run import Run


def simulated(run: Run, model: fx.GraphModule, started: Sequence[str]) -> PreparedGraph:
    """What the run simulates at those tensors that the model quantizes as well, every weight among them."""
    edges = {edge for each in iter_quantizers(Network(model)) if each.name in started for edge in each.consumers}
    shared = [(site, tuple(edge for edge in site.consumers if edge in edges)) for site in run.table.plan.sites]
    assert all(consumers for site, consumers in shared if site.role == "weight")
    sites = tuple(replace(site, consumers=consumers) for site, consumers in shared if consumers)
    return replace(run.table, plan=replace(run.table.plan, sites=sites)).simulate(copy.deepcopy(run.network))


def psnr(one: Tensor, other: Tensor, peak: float = 1.0) -> float:
    """In dB, finite where both are equal."""
    return float(10 * torch.log10(peak**2 / (one - other).double().square().mean().clamp(min=1e-30)))
