"""train(): what a toolkit prepared with our quantizers, trained in place; its own ending comes after."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, fx

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.planning.readback import plan_from_graph
from srptq_plugin.plugins.hosts import installed_hosts
from srptq_plugin.plugins.protocols import Host
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.batches import Batch, held_out
from srptq_plugin.qat.training import Training, TrainingOptions, Validation
from srptq_plugin.qat.training import train as run_to_the_end
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer
from srptq_plugin.utils.progress import Progress, quiet

OBSERVED = 16
Draw = Callable[[int, int], Tensor]


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
        options: those of `TrainingOptions`, named as in a recipe's `training`.
    """
    if len(low) < 2 or (high is not None and len(high) != len(low)):  # noqa: PLR2004 - one is held out
        found = f"{len(low)} low and {'no' if high is None else len(high)} high ones"
        raise SrptqError(f"train: {found}; give two patches or more, and as many high ones, or none")
    for name, patches in (("low", low), ("high", high)):
        _check(name, patches)
    chosen = _settings({"batch": batch, "seed": seed, **options})
    with ExitStack() as stack:
        for host in _hosts(prepared):
            with torch.no_grad():
                prepared(low[:OBSERVED])  # for those of its quantizers that observe
            stack.enter_context(host.bounded(prepared))
        return _trained(prepared, (low, high), chosen, _drawn(batch, seed), progress)


def _check(name: str, patches: Tensor | None) -> None:
    if patches is None:
        return
    if not patches.is_floating_point() or patches.ndim != 4:  # noqa: PLR2004 - a batch of images
        found = f"{patches.dtype} of shape {tuple(patches.shape)}"
        raise SrptqError(f"train: {name}: {found}; give floats [N, C, H, W] in the network's own range")
    broken = (~patches.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise SrptqError(f"train: {name}: NaN or infinite values in patch {broken[0]}; leave it out")


def _settings(options: dict[str, Any]) -> TrainingOptions:
    """The keys of a recipe's `training`, validated as a recipe's are."""
    if "patch" in options:
        raise SrptqError("train: patch: the patches are given; cut these to the size that is wanted")
    layer = RecipeLayer("train()", {"target": "paper", "training": options})
    return TrainingOptions(**Recipe.from_layers([layer]).training.options())


def _hosts(prepared: fx.GraphModule) -> Iterator[Host]:
    """The toolkit whose own quantizers a model has."""
    if not plan_from_graph(prepared).sites:
        yield from (host for _, host in installed_hosts(Registry()))


def _trained(
    prepared: fx.GraphModule, patches: Batch, options: TrainingOptions, draw: Draw, progress: Progress
) -> list[Validation]:
    low, high = patches
    plan = plan_from_graph(prepared)
    if not plan.sites:
        raise SrptqError("train: no fake-quantizer in the graph; prepare it by MQBench, or with SRQuantizer by torchao")
    out = held_out(len(low))
    peak = float(low.max() - low.min()) or 1.0
    graph = PreparedGraph.wrap(prepared, plan)
    drawn = tuple(graph.float_forward(low[:1])[0].shape[1:])
    if high is not None and high.shape[1:] != drawn:
        raise SrptqError(f"train: high: patches {tuple(high.shape[1:])}; from these low ones the network draws {drawn}")
    _observe_the_rest(graph, low[:OBSERVED])
    graph.on_train_begin(low[:OBSERVED])
    training = Training(graph, options, peak)
    judge = _closeness(low[-out:], None if high is None else high[-out:], peak)

    def batches(step: int) -> Batch:
        chosen = draw(step, len(low) - out)
        return low[chosen], None if high is None else high[chosen]

    return list(run_to_the_end(training, batches, judge, progress))


def _observe_the_rest(graph: PreparedGraph, low: Tensor) -> None:
    rest = [each for each in graph.quantizers.values() if not (each.has_bounds or each.has_pending)]
    for each in rest:
        each.set_mode(Mode.OBSERVE)
    if rest:
        with torch.no_grad():
            graph(low)
    for each in graph.quantizers.values():
        each.finish_observing()


def _drawn(batch: int, seed: int) -> Draw:
    """The patches of a step, by its number."""

    def draw(step: int, count: int) -> Tensor:
        return torch.randint(count, (batch,), generator=torch.Generator().manual_seed(1_000_003 * seed + step))

    return draw


def _closeness(low: Tensor, high: Tensor | None, peak: float) -> Callable[[PreparedGraph], float]:
    """PSNR in dB."""

    def judge(graph: PreparedGraph) -> float:
        wanted = graph.float_forward(low)[0] if high is None else high
        error = (graph(low) - wanted).square().mean()
        return float(10 * torch.log10(peak**2 / error.clamp_min(1e-30)))

    return judge
