"""The expected output of a model that initialize() started, and its distance from the actual one."""

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
    """Return the run's simulation, quantized only at the tensors that the model quantizes as well.

    Every weight has to be among them.
    """
    quantizers = [quantizer for quantizer in iter_quantizers(Network(model)) if quantizer.name in started]
    edges = {edge for quantizer in quantizers for edge in quantizer.consumers}
    shared = [(site, tuple(edge for edge in site.consumers if edge in edges)) for site in run.table.plan.sites]
    assert all(consumers for site, consumers in shared if site.role == "weight")
    sites = tuple(replace(site, consumers=consumers) for site, consumers in shared if consumers)
    return replace(run.table, plan=replace(run.table.plan, sites=sites)).simulate(copy.deepcopy(run.network))


def psnr(one: Tensor, other: Tensor, peak: float = 1.0) -> float:
    """Return the PSNR in dB, which is finite for equal tensors."""
    return float(10 * torch.log10(peak**2 / (one - other).double().square().mean().clamp(min=1e-30)))
