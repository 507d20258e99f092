"""train(): train in place a model that a toolkit prepared with our quantizers. The toolkit converts it afterwards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.planning.readback import plan_from_graph
from srptq_plugin.plugins.hosts import Host, installed_hosts
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.batches import Batch, held_out
from srptq_plugin.qat.training import Training, Validation, resolve_epochs
from srptq_plugin.qat.training import train as run_to_the_end
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer
from srptq_plugin.recipes.schema import TrainingSettings
from srptq_plugin.utils.progress import Progress, quiet

OBSERVED = 16
"""Patches that quantizers without bounds observe."""
Draw = Callable[[int, int], Tensor]
"""From the number of a step and of the patches to the indices of a batch."""


def train(
    prepared: fx.GraphModule,
    low: Tensor,
    high: Tensor | None = None,
    *,
    batch: int = 8,
    seed: int = 0,
    progress: Progress = quiet,
    **options: Any,
) -> list[Validation]:
    """Train a prepared model in place from its bounds. Sites without bounds observe the patches first.

    One patch of twenty is held out. The state that reproduces these patches best is kept.

    Args:
        low: patches [N, 3, H, W].
        high: the high-resolution patches of `low`. Without them the float network is the teacher.
        batch: patches in a batch.
        seed: decides the patches of each step.
        progress: called before each step.
        options: options of `TrainingSettings`, named as in a recipe's `training`.

    Returns:
        The validations, the start first.
    """
    if len(low) < 2 or (high is not None and len(high) != len(low)):  # noqa: PLR2004 - one is held out
        counts = f"{len(low)} low and {'no' if high is None else len(high)} high ones"
        raise SrptqError(f"train: {counts}; give two patches or more, and as many high ones, or none")
    for name, patches in (("low", low), ("high", high)):
        _check(name, patches)
    chosen = _settings({"batch": batch, "seed": seed, **options})
    with ExitStack() as stack:
        for host in _hosts(prepared):
            with torch.no_grad():
                prepared(low[:OBSERVED])  # some of its quantizers may still observe
            stack.enter_context(host.bounded(prepared))
        return _train(prepared, (low, high), chosen, _seeded_draw(batch, seed), progress)


def _check(name: str, patches: Tensor | None) -> None:
    if patches is None:
        return
    if not patches.is_floating_point() or patches.ndim != 4:  # noqa: PLR2004 - a batch of images
        actual = f"{patches.dtype} of shape {tuple(patches.shape)}"
        raise SrptqError(f"train: {name}: {actual}; give floats [N, C, H, W] in the network's own range")
    broken = (~patches.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise SrptqError(f"train: {name}: NaN or infinite values in patch {broken[0]}; leave it out")


def _settings(options: dict[str, Any]) -> TrainingSettings:
    """Validate the options like a recipe's `training`."""
    if "patch" in options:
        raise SrptqError("train: patch: the patches are given; cut them to the size that you want")
    layer = RecipeLayer("train()", {"target": "paper", "training": options})
    return Recipe.from_layers([layer]).training


def _hosts(prepared: fx.GraphModule) -> Iterator[Host]:
    """Yield the toolkits that may own the quantizers of a model, unless they are ours."""
    if not plan_from_graph(prepared).sites:
        yield from (host for _, host in installed_hosts(Registry()))


def _train(
    prepared: fx.GraphModule, patches: Batch, options: TrainingSettings, draw: Draw, progress: Progress
) -> list[Validation]:
    low, high = patches
    plan = plan_from_graph(prepared)
    if not plan.sites:
        raise SrptqError("train: no fake-quantizer in the graph; prepare it by MQBench, or with SRQuantizer by torchao")
    out = held_out(len(low))
    peak = float(low.max() - low.min()) or 1.0
    graph = PreparedGraph.wrap(prepared, plan)
    size = tuple(graph.float_forward(low[:1])[0].shape[1:])
    if high is not None and high.shape[1:] != size:
        raise SrptqError(f"train: high: patches {tuple(high.shape[1:])}; from these low ones the network draws {size}")
    _observe_the_rest(graph, low[:OBSERVED])
    graph.on_train_begin(low[:OBSERVED])
    training = Training(graph, resolve_epochs(options, len(low) - out), peak)
    validate = _psnr(low[-out:], None if high is None else high[-out:], peak)

    def batches(step: int) -> Batch:
        chosen = draw(step, len(low) - out)
        return low[chosen], None if high is None else high[chosen]

    return list(run_to_the_end(training, batches, validate, progress))


def _observe_the_rest(graph: PreparedGraph, low: Tensor) -> None:
    quantizers = list(graph.quantizers.values())
    rest = [quantizer for quantizer in quantizers if not (quantizer.has_bounds or quantizer.has_pending)]
    for quantizer in rest:
        quantizer.set_mode(Mode.OBSERVE)
    if rest:
        with torch.no_grad():
            graph(low)
    for quantizer in quantizers:
        quantizer.finish_observing()


def _seeded_draw(batch: int, seed: int) -> Draw:
    def draw(step: int, count: int) -> Tensor:
        return torch.randint(count, (batch,), generator=torch.Generator().manual_seed(1_000_003 * seed + step))

    return draw


def _psnr(low: Tensor, high: Tensor | None, peak: float) -> Callable[[PreparedGraph], float]:
    """Return a function that measures the PSNR of a graph in dB, to the labels or to the float network."""

    def measure(graph: PreparedGraph) -> float:
        target = graph.float_forward(low)[0] if high is None else high
        error = (graph(low) - target).square().mean()
        return float(10 * torch.log10(peak**2 / error.clamp_min(1e-30)))

    return measure
