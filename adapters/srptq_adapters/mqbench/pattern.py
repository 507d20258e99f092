"""PaC as one more pattern of `ptq_reconstruction`, on a model that MQBench prepared and calibrated."""

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

from srptq_adapters.mqbench.bounds_transfer import adopt, to_bounded
from srptq_adapters.mqbench.layers import INSIDE
from srptq_adapters.mqbench.patching import Undo, swapped
from srptq_plugin.errors import SrptqError, UnknownNameError
from srptq_plugin.graph.network import Network
from srptq_plugin.planning.prepared_graph import FLOAT, PreparedGraph, float_parameters
from srptq_plugin.planning.readback import PlacedQuantizer, iter_quantizers, plan_from_graph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

logger = logging.getLogger(__name__)

STOCK = ("layer", "block")
"""MQBench's own patterns."""
STOCK_KEYS = frozenset(
    {"scale_lr", "warm_up", "weight", "max_count", "b_range", "keep_gpu", "round_mode", "prob"}
    | {"exclude_node", "exclude_node_prefix"}
)
"""Keys of MQBench's own reconstruction. A config still has them where a user changed nothing but `pattern`."""


class Config(dict[str, Any]):
    """A config that MQBench can read: it uses attributes and `in`.

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
    """Add the patterns of the registry to MQBench's own."""
    stock = advanced_ptq.ptq_reconstruction
    patterns = {entry.name: entry for entry in registry.entries("reconstruction")}

    def ptq_reconstruction(
        model: fx.GraphModule, cali_data: Sequence[Tensor], config: Any, graph_module_list: Any = None
    ) -> Any:
        options = read_options(config)
        pattern = options.get("pattern")
        if pattern in patterns:
            if graph_module_list is not None:
                raise SrptqError(f"pattern {pattern}: works on a whole model; leave graph_module_list out")
            return reconstruct(model, cali_data, pattern, options, registry)
        if pattern not in STOCK:
            raise SrptqError(f"config.pattern: {UnknownNameError('pattern', str(pattern or ''), [*STOCK, *patterns])}")
        _require_rounding(model)
        floats = float_parameters(model)
        tuned = stock(model, cali_data, Config(options), graph_module_list)
        if isinstance(tuned, fx.GraphModule):
            tuned.meta[FLOAT] = floats  # A later training has the float network as its teacher, not the rounded one.
        return tuned

    for name in _imported_early(stock):
        names = ", ".join(patterns)
        logger.warning("%s imported ptq_reconstruction before activate(), and will not find %s", name, names)
    return swapped(advanced_ptq, "ptq_reconstruction", ptq_reconstruction)


def _imported_early(stock: Any) -> list[str]:
    """Return the names of modules that hold the stock function. Replacing MQBench's attribute does not reach them."""
    # Some entries of sys.modules are no modules, and importing in another thread may change it meanwhile.
    modules = ((name, getattr(module, "__dict__", {})) for name, module in list(sys.modules.items()))
    return [
        name for name, names in modules if names.get("ptq_reconstruction") is stock and names is not vars(advanced_ptq)
    ]


def read_options(config: Any) -> dict[str, Any]:
    """Return the options of an EasyDict, dict or namespace.

    >>> from types import SimpleNamespace
    >>> read_options(SimpleNamespace(pattern="pac", epochs=2))
    {'pattern': 'pac', 'epochs': 2}
    """
    if not isinstance(config, Mapping) and not hasattr(config, "__dict__"):
        raise SrptqError(f"config: {config!r} has no options; give an EasyDict, a dict or a namespace")
    return dict(config) if isinstance(config, Mapping) else dict(vars(config))


def reconstruct(
    model: fx.GraphModule, cali_data: Sequence[Tensor], pattern: str, options: Mapping[str, Any], registry: Registry
) -> fx.GraphModule:
    """Return a tuned copy of a calibrated model, with quantization on."""
    chosen = validate(pattern, options, registry)
    images = _images(cali_data, next(model.parameters()).device)
    tuned = deepcopy_graphmodule(model).eval()
    tuned.meta[FLOAT] = float_parameters(model)
    with bounded(tuned):
        prepared = PreparedGraph.wrap(tuned, plan_from_graph(tuned))
        figures = registry.reconstruction(pattern).load()(prepared, images, **chosen)
    enable_quantization(tuned)
    report = ", ".join(f"{name} {figure:.6g}" for name, figure in figures.items())
    mqbench_logger.info(f"pattern {pattern}: {report}")
    return tuned


def validate(pattern: str, options: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Validate the options as a recipe's, and return them with their defaults.

    Keys of MQBench's own reconstruction are left out, with a warning.
    """
    unused = sorted(key for key in options if key in STOCK_KEYS)
    if unused:
        logger.warning("pattern %s does not use %s", pattern, ", ".join(unused))
    keys = {key: value for key, value in options.items() if key not in STOCK_KEYS and key != "pattern"}
    # A recipe has the seed under `calibration`, so the reconstruction's model does not know it.
    seed = {"seed": keys.pop("seed")} if "seed" in keys else {}
    return {**dict(registry.reconstruction(pattern).options.parse(keys, "config")), **seed}


def _require_rounding(model: nn.Module) -> None:
    # MQBench's own patterns learn rounding and call `init` of each weight quantizer, which only one kind has.
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
    """Replace every quantizer by ours within `with`. Afterwards the model's own have the bounds of ours."""
    places = list(iter_quantizers(Network(model)))
    originals = {placed.path: placed.quantizer for placed in places}
    replacements = {placed.path: _replacement(placed) for placed in places}
    _put(model, replacements)
    try:
        yield list(replacements.values())
    finally:
        _put(model, originals)
        for path, quantizer in originals.items():
            replacements[path].finish_observing()
            adopt(quantizer, replacements[path].bounds)


def _replacement(placed: PlacedQuantizer) -> BoundedFakeQuantize:
    bounded_quantizer = to_bounded(placed.quantizer, placed.name)
    bounded_quantizer.constant = placed.role == "weight"
    return bounded_quantizer


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for path, module in modules.items():
        owner, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(owner), leaf, module)
