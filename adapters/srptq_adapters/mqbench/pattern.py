"""`ptq_reconstruction` with one pattern more: PaC, on a model that MQBench prepared and calibrated."""

import logging
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mqbench import advanced_ptq  # pyright: ignore[reportMissingImports]
from mqbench.utils import deepcopy_graphmodule  # pyright: ignore[reportMissingImports]
from mqbench.utils.logger import logger as mqbench_logger  # pyright: ignore[reportMissingImports]
from mqbench.utils.state import enable_quantization  # pyright: ignore[reportMissingImports]
from torch import Tensor, fx, nn

from srptq_adapters.mqbench.bounds_transfer import adopt, core_of
from srptq_adapters.mqbench.patching import Undo, swapped
from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import FLOAT, PreparedGraph, float_parameters
from srptq_plugin.planning.readback import INSIDE, PlacedQuantizer, iter_quantizers, plan_from_graph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

logger = logging.getLogger(__name__)

STOCK = ("layer", "block")
THEIRS = frozenset(
    {"scale_lr", "warm_up", "weight", "max_count", "b_range", "keep_gpu", "round_mode", "prob"}
    | {"exclude_node", "exclude_node_prefix"}
)
"""Keys of MQBench's own reconstruction, which stand in the config of whoever changes `pattern` only."""


class Config(dict[str, Any]):
    """A config that MQBench can read, by attribute and by `in`.

    >>> Config(pattern="pac").pattern
    'pac'
    """

    def __getattr__(self, key: str) -> Any:
        if key not in self:
            raise AttributeError(key)
        return self[key]

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


def wrap(registry: Registry) -> Undo:
    """Put the patterns of the registry beside MQBench's own."""
    stock = advanced_ptq.ptq_reconstruction
    ours = {entry.name: entry for entry in registry.entries("reconstruction")}

    def ptq_reconstruction(
        model: fx.GraphModule, cali_data: Sequence[Tensor], config: Any, graph_module_list: Any = None
    ) -> Any:
        options = options_of(config)
        pattern = options.get("pattern")
        if pattern in ours:
            if graph_module_list is not None:
                raise SrptqError(f"pattern {pattern}: works on a whole model; leave graph_module_list out")
            return reconstruct(model, cali_data, pattern, options, registry)
        if pattern not in STOCK:
            raise SrptqError(f"config.pattern: {UnknownNameError('pattern', str(pattern or ''), [*STOCK, *ours])}")
        _require_rounding(model)
        known = float_parameters(model)
        tuned = stock(model, cali_data, Config(options), graph_module_list)
        if isinstance(tuned, fx.GraphModule):
            tuned.meta[FLOAT] = known
        return tuned

    for name in _imported_early(stock):
        logger.warning("%s imported ptq_reconstruction before activate(), and will not find %s", name, ", ".join(ours))
    return swapped(advanced_ptq, "ptq_reconstruction", ptq_reconstruction)


def _imported_early(stock: Any) -> list[str]:
    """The modules that hold MQBench's function itself."""
    holders = ((name, getattr(module, "__dict__", {})) for name, module in list(sys.modules.items()))
    return [
        name for name, held in holders if held.get("ptq_reconstruction") is stock and held is not vars(advanced_ptq)
    ]


def options_of(config: Any) -> dict[str, Any]:
    """The options of an EasyDict, dict or namespace.

    >>> from types import SimpleNamespace
    >>> options_of(SimpleNamespace(pattern="pac", epochs=2))
    {'pattern': 'pac', 'epochs': 2}
    """
    if not isinstance(config, Mapping) and not hasattr(config, "__dict__"):
        raise SrptqError(f"config: {config!r} is neither an EasyDict, nor a dict, nor a namespace")
    return dict(config) if isinstance(config, Mapping) else dict(vars(config))


def reconstruct(
    model: fx.GraphModule, cali_data: Sequence[Tensor], pattern: str, options: Mapping[str, Any], registry: Registry
) -> fx.GraphModule:
    """A tuned copy of a calibrated model, quantization on."""
    chosen = checked(pattern, options, registry)
    images = _images(cali_data, next(model.parameters()).device)
    tuned = deepcopy_graphmodule(model).eval()
    tuned.meta[FLOAT] = float_parameters(model)
    with bounded(tuned):
        prepared = PreparedGraph.wrap(tuned, plan_from_graph(tuned))
        figures = registry.reconstruction(pattern).load()(prepared, images, **chosen)
    enable_quantization(tuned)
    told = ", ".join(f"{name} {figure:.6g}" for name, figure in figures.items())
    mqbench_logger.info(f"pattern {pattern}: {told}")
    return tuned


def checked(pattern: str, options: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The recipe's keys, validated as a recipe's are; those of MQBench's reconstruction are named and left out."""
    unused = sorted(key for key in options if key in THEIRS)
    if unused:
        logger.warning("pattern %s does not use %s", pattern, ", ".join(unused))
    given = {key: value for key, value in options.items() if key not in THEIRS and key != "pattern"}
    seed = {"seed": given.pop("seed")} if "seed" in given else {}
    return {**dict(registry.reconstruction(pattern).options.parse(given, "config")), **seed}


def _require_rounding(model: nn.Module) -> None:
    """MQBench's own patterns learn rounding, in one kind of weight quantizer only."""
    for name, module in model.named_modules():
        if name.endswith(INSIDE) and not hasattr(module, "init"):
            raise SrptqError(
                f"{name}: {type(module).__name__} does not learn rounding, as the patterns {' and '.join(STOCK)} do; "
                "set w_fakequantize: AdaRoundFakeQuantize, or pattern: pac"
            )


def _images(cali_data: Sequence[Tensor], device: torch.device) -> Tensor:
    batches = list(cali_data)
    shapes = sorted({tuple(batch.shape[1:]) for batch in batches if isinstance(batch, Tensor)})  # pyright: ignore[reportUnnecessaryIsInstance]
    if len(shapes) != 1 or not all(isinstance(batch, Tensor) for batch in batches):  # pyright: ignore[reportUnnecessaryIsInstance]
        kinds = sorted({type(batch).__name__ for batch in batches})
        raise SrptqError(
            f"cali_data: {len(batches)} batches of {', '.join(kinds) or 'nothing'}, shapes {shapes}; "
            "give tensors of images of one size, [N, 3, H, W]"
        )
    return torch.cat([batch.to(device) for batch in batches])


@contextmanager
def bounded(model: fx.GraphModule) -> Generator[list[BoundedFakeQuantize]]:
    """The model with our quantizer in every quantizer's place; afterwards its own have the bounds of ours."""
    found = list(iter_quantizers(Network(model)))
    originals = {each.path: each.quantizer for each in found}
    cores = {each.path: _core(each) for each in found}
    _put(model, cores)
    try:
        yield list(cores.values())
    finally:
        _put(model, originals)
        for path, quantizer in originals.items():
            cores[path].finish_observing()
            adopt(quantizer, cores[path].bounds)


def _core(each: PlacedQuantizer) -> BoundedFakeQuantize:
    core = core_of(each.quantizer, each.name)
    core.constant = each.role == "weight"
    return core


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for path, module in modules.items():
        owner, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(owner), leaf, module)
