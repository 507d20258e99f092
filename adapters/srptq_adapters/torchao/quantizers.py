"""`SRQuantizer`, which annotates a recipe's sites, and `with_observer`, which puts observers into a stock quantizer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import fx, nn
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.arm_inductor_quantizer import ArmInductorQuantizer
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

from srptq_adapters.torchao.fake_quantize_class import (
    TorchaoFakeQuantize,
    constructor,
    fake_quantize_class,
    read_grid,
    to_qscheme,
)
from srptq_plugin.graph.batch_norms import fold_mean_shifts
from srptq_plugin.graph.network import Network, drop_identities, tensor_arguments
from srptq_plugin.graph.rewrites import split_silus
from srptq_plugin.planning.plan import ObserverFactoryForGrid, Plan, Site
from srptq_plugin.planning.prepared_graph import build_quantizer
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.saturation import pair_limit
from srptq_plugin.recipes.recipe import Recipe

ANNOTATION = "quantization_annotation"
ACTIVATIONS = IntGrid(8)
"""The grid of activations under X86InductorQuantizer."""
PAIR_SUM_BITS = 16
"""The bits of the integer in which x86 kernels without VNNI add two products."""
Place = tuple[fx.Node, fx.Node]
"""A tensor and one of its readers."""


class SRQuantizer(Quantizer):  # pyright: ignore[reportUntypedBaseClass]
    """A PT2E quantizer that annotates the sites of a plan, edge by edge.

    `SRQuantizer.from_recipe("openvino-w8a8")` makes its plan from the graph that `prepare_pt2e` hands it. Afterwards
    `.plan` holds the plan.
    """

    def __init__(self, decide: Callable[[Network], Plan]) -> None:
        super().__init__()
        self._decide = decide
        self.plan: Plan | None = None

    @classmethod
    def from_recipe(
        cls, recipe: str | Recipe, *, input_range: tuple[float, float] = (0.0, 1.0), registry: Registry | None = None
    ) -> "SRQuantizer":
        """Make a quantizer that follows a recipe.

        Args:
            recipe: a shipped recipe's name, or a recipe of your own.
            input_range: the range of the images.
            registry: where observers and quantizers are looked up.
        """
        return cls(partial(BoundRecipe.resolve(recipe, registry or Registry()).plan, input_range=input_range))

    def transform_for_annotation(self, model: fx.GraphModule) -> fx.GraphModule:
        """Fold mean shifts, split SiLUs and drop operations that change nothing, as the pipeline does."""
        split_silus(model.graph)
        return fold_mean_shifts(drop_identities(model))

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Annotate every site, in the order of the graph."""
        network = Network(model)
        self.plan = plan = self._decide(network)
        order = {node: n for n, node in enumerate(model.graph.nodes)}
        edges = [
            (network.nodes[edge.consumer], edge.input_index, site) for site in plan.sites for edge in site.consumers
        ]
        # torchao makes the quantizer of a place before later places can share it. So the first place of a group, in the
        # order of the graph, must be the one that the others refer to.
        first: dict[str, Place] = {}
        for consumer, index, site in sorted(edges, key=lambda edge: (order[edge[0]], edge[1])):
            place = tensor_arguments(consumer)[index], consumer
            if place == first.get(site.group):
                continue  # the operation reads this tensor twice
            if site.group in first:
                _annotate(place, SharedQuantizationSpec(first[site.group]))
            else:
                first[site.group] = place
                _annotate(
                    place, _spec(site, constructor(partial(build_quantizer, plan, site.group, fake_quantize_class)))
                )
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Accept any graph: the plan was made from it."""


def _spec(site: Site, build: Any) -> QuantizationSpec:
    # torchao validates dtype and ends although `build` alone decides, so they are taken from a quantizer of this grid.
    example = TorchaoFakeQuantize(site.name, site.grid)
    return QuantizationSpec(
        dtype=example.dtype,
        observer_or_fake_quant_ctr=build,
        quant_min=site.grid.qmin,
        quant_max=site.grid.qmax,
        qscheme=to_qscheme(site.grid),
        ch_axis=site.grid.channel_axis,
    )


def _annotate(place: Place, spec: QuantizationSpec | SharedQuantizationSpec) -> None:
    source, consumer = place
    # Implicit sharing would merge the quantizers of a concat's inputs. The plan alone decides on sharing.
    annotation = consumer.meta.setdefault(
        ANNOTATION, QuantizationAnnotation(_annotated=True, allow_implicit_sharing=False)
    )
    annotation.input_qspec_map[source] = spec


def with_observer(
    quantizer: Quantizer,
    activations: str = "dbdc",
    *,
    weights: str = "minmax",
    options: Mapping[str, Any] | None = None,
    overflow_safe: bool = True,
    registry: Registry | None = None,
) -> Quantizer:
    """Wrap a stock quantizer so that our observers find its ranges. What it quantizes stays its own choice.

    Args:
        quantizer: any PT2E quantizer.
        activations: the observer of activations.
        weights: the observer of weights.
        options: the options of the observer of activations.
        overflow_safe: keep weights small enough for x86 processors without VNNI. Only X86InductorQuantizer needs it.
        registry: where observers are looked up.
    """
    registry = registry or Registry()
    entry = registry.observer(activations)
    for_activations = partial(_observe, entry.load(), dict(entry.options.parse(options or {}, activations)))
    for_weights = partial(_observe, registry.observer(weights).load(), {})
    bits = PAIR_SUM_BITS if overflow_safe and _is_x86(quantizer) else None
    return _Observing(quantizer, for_activations, for_weights, bits)


def _is_x86(quantizer: Quantizer) -> bool:
    # A ComposableQuantizer has parts. The quantizer for Arm is a subclass of the one for x86.
    parts = getattr(quantizer, "quantizers", [quantizer])
    return any(isinstance(part, X86InductorQuantizer) and not isinstance(part, ArmInductorQuantizer) for part in parts)


def _observe(factory: Any, options: Mapping[str, Any], grid: Any, tensors_per_batch: int) -> Any:
    return factory(grid, tensors_per_batch=tensors_per_batch, **options)


class _Observing(Quantizer):  # pyright: ignore[reportUntypedBaseClass]
    """A quantizer that delegates to a stock one and swaps the observers in its annotations."""

    def __init__(
        self, stock: Quantizer, activations: ObserverFactoryForGrid, weights: ObserverFactoryForGrid, bits: int | None
    ) -> None:
        super().__init__()
        self._stock, self._activations, self._weights, self._bits = stock, activations, weights, bits
        self._swapped: dict[tuple[int, bool], QuantizationSpec] = {}

    def transform_for_annotation(self, model: fx.GraphModule) -> fx.GraphModule:
        return self._stock.transform_for_annotation(model)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        self._stock.annotate(model)
        for node in model.graph.nodes:
            annotation = node.meta.get(ANNOTATION)
            if annotation is not None:
                for source, spec in annotation.input_qspec_map.items():
                    annotation.input_qspec_map[source] = self._swap(spec, constant=source.op == "get_attr")
                annotation.output_qspec = self._swap(annotation.output_qspec, constant=False)
        return model

    def _swap(self, spec: Any, *, constant: bool) -> Any:
        """Return a spec with our observer. Specs of other kinds, of floats and of 32-bit biases stay."""
        if not isinstance(spec, QuantizationSpec) or spec.is_dynamic or spec.dtype.is_floating_point:
            return spec
        if "32" in str(spec.dtype):
            return spec
        # torchao shares a quantizer between places with equal specs. One swapped spec for all equal ones keeps this.
        key = hash((spec, constant)), constant
        if key not in self._swapped:
            build = constructor(partial(self._build, self._grid(spec, constant=constant), constant))
            self._swapped[key] = replace(spec, observer_or_fake_quant_ctr=build)
        return self._swapped[key]

    def _grid(self, spec: QuantizationSpec, *, constant: bool) -> IntGrid:
        grid = read_grid(spec)
        return replace(grid, pair_limit=pair_limit(self._bits, grid, ACTIVATIONS)) if constant else grid

    def _build(self, grid: Any, constant: bool) -> nn.Module:  # noqa: FBT001
        qconfig = self._weights if constant else self._activations
        return TorchaoFakeQuantize("", grid, qconfig(grid, 1), constant=constant)

    def prepare_obs_or_fq_callback(self, model: fx.GraphModule, edge_or_node_to_obs_or_fq: Mapping[Any, Any]) -> None:
        """Name each quantizer by its tensor, and give it an observer for as many tensors as share it."""
        network = Network(model)
        tensors: dict[TorchaoFakeQuantize, list[fx.Node]] = {}
        for edge, module in edge_or_node_to_obs_or_fq.items():
            source = edge[0] if isinstance(edge, tuple) else edge
            if isinstance(module, TorchaoFakeQuantize) and source not in tensors.setdefault(module, []):
                tensors[module].append(source)
        for quantizer, sources in tensors.items():
            quantizer.name = _tensor_name(network, sources[0])
            qconfig = self._weights if quantizer.constant else self._activations
            quantizer.observer = qconfig(quantizer.grid, len(sources))

    def validate(self, model: fx.GraphModule) -> None:
        self._stock.validate(model)


def _tensor_name(network: Network, source: fx.Node) -> str:
    return network.name(source) if source in network.keys else str(source.target)
