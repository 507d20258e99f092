"""Where quantizers go: the network's graph, a target's rules and a recipe's wishes become sites."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

from torch import fx

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.fusion import Fusing
from srptq_plugin.graph.image_range import compute_image_range
from srptq_plugin.graph.network import MOVEMENT, Network, is_pooled, tensor_arguments
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.stages import Stage, Stages, find_blocks
from srptq_plugin.planning.plan import Edge, Plan, QConfig, Role, Site
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.saturation import pair_limit
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import Override


def make_plan(
    network: Network,
    rules: Rules,
    recipe: Recipe,
    image: tuple[float, float],
    qconfigs: Mapping[Role, QConfig] | None = None,
) -> Plan:
    """Decide every site once, for every toolkit."""
    planner = _Planner(network, rules, recipe, image)
    sites = [
        *(planner.weights() if recipe.weights.quantize else ()),
        *(planner.activations() if recipe.activations.quantize else ()),
    ]
    if not sites:
        raise SrptqError("plan: nothing to quantize: the network has no convolution that the recipe quantizes")
    return Plan(
        sites=tuple(sites),
        blocks=tuple(network.name(node) for node in find_blocks(network)),
        convs=tuple(network.name(conv) for conv in planner.planned),
        floats=planner.floats(),
        integer_bias=rules.integer_bias,
        qconfigs=qconfigs or {},
    )


_Requests = Mapping[tuple[fx.Node, IntGrid], set[Edge]]
"""Which readers of a tensor want which grid."""


class _Planner:
    def __init__(self, network: Network, rules: Rules, recipe: Recipe, image: tuple[float, float]) -> None:
        self.network, self.rules, self.recipe, self.image = network, rules, recipe, image
        self.stages = Stages(network)
        self.full = rules.placement(recipe.placement) == "full"
        self.refused: dict[fx.Node, str] = {}
        self.planned = [conv for conv in network.convs if self._plans(conv)]
        self.fusing = Fusing(network, rules, self.planned)
        joined = (node for node, op in network.ops.items() if op == "add" and self._joins(node))
        self.sums = {self.fusing.last(add): add for add in joined}

    def _plans(self, conv: fx.Node) -> bool:
        reason = self._why_float(conv)
        if reason:
            self.refused[conv] = reason
        return not reason

    def _why_float(self, conv: fx.Node) -> str:
        if is_pooled(conv):
            return "works on pooled 1 x 1 maps: too little arithmetic to gain from integers"
        if self.network.parameter(conv, 1) is None:
            return "its weight is computed, not a parameter"
        if not self._wanted(conv):
            return "the recipe leaves it float"
        return ""

    def _wanted(self, node: fx.Node) -> bool:
        wanted = self.recipe.stages[self.stages.of(node)].quantize
        wanted = wanted and (self.recipe.skips.quantize or self.network.ops[node] != "add")
        for override in self._overrides(self._names(node)):
            wanted = wanted if override.quantize is None else override.quantize
        return wanted

    def _names(self, node: fx.Node) -> list[str]:
        key = self.network.keys[node]
        return [key.path, str(key)]

    def _overrides(self, names: list[str], tensor: str = "") -> Iterator[Override]:
        """Those that mean an operation, or a tensor that it reads."""
        for override in self.recipe.overrides:
            by_reader = override.sites is not None and any(fnmatchcase(name, override.sites) for name in names)
            if by_reader or (override.tensors is not None and fnmatchcase(tensor, override.tensors)):
                yield override

    def weights(self) -> Iterator[Site]:
        """One site a parameter, whoever shares it."""
        readers: dict[str, list[fx.Node]] = defaultdict(list)
        for conv in self.planned:
            found = self.network.parameter(conv, 1)
            if found:
                readers[found[0]].append(conv)
        for name, convs in readers.items():
            stage = self.stages.of(convs[0])
            bits = self._overridden(self._bits("weights", stage), "weights", [name, *self._names(convs[0])], name)
            axis = 0 if self.recipe.weights.per_channel else None
            grid = replace(self.rules.sized(self.rules.weights, bits), channel_axis=axis)
            grid = replace(grid, pair_limit=self._pair_limit(grid, convs))
            edges = tuple(Edge(self.network.name(conv), 1) for conv in convs)
            yield Site(name, "weight", stage, grid, name, edges, group=name)

    def _pair_limit(self, grid: IntGrid, convs: list[fx.Node]) -> int | None:
        """Return the largest safe sum of two neighboring weights, by what the convolutions of a weight read."""
        if not self.recipe.weights.overflow_safe or all(self.network.is_depthwise(conv) for conv in convs):
            return None
        inputs = ((conv, tensor_arguments(conv)[0]) for conv in convs)
        grids = [self._grid(conv, source, self.stages.of(conv)) for conv, source in inputs]
        return pair_limit(self.rules.pair_sum_bits, grid, max(grids, key=lambda grid: grid.bits))

    def _bits(self, kind: Literal["weights", "activations"], stage: Stage) -> int:
        settings = self.recipe.stages[stage]
        return getattr(settings, kind) or getattr(self.recipe, kind).bits

    def _overridden(self, bits: int, kind: Literal["weights", "activations"], names: list[str], tensor: str) -> int:
        for override in self._overrides(names, tensor):
            bits = getattr(override, kind) or override.bits or bits
        return bits

    def activations(self) -> list[Site]:
        """One site a tensor and grid; sharing by data movement, and by concat where the target says so."""
        wishes: dict[tuple[fx.Node, IntGrid], set[Edge]] = defaultdict(set)
        stages: dict[tuple[fx.Node, IntGrid], Stage] = {}
        for consumer, index, source in self._edges():
            stage = self._stage_of_edge(consumer, source)
            wanted = source, self._grid(consumer, source, stage)
            wishes[wanted].add(Edge(self.network.name(consumer), index))
            stages.setdefault(wanted, stage)
        requests = self._whole(wishes) if self.rules.one_encoding else wishes
        sites = {
            (source, grid): Site(
                self._site_name(source, grid, requests),
                "activation",
                stages[source, grid],
                grid,
                self.network.name(source),
                tuple(sorted(edges)),
                bounds=compute_image_range(self.network, source, self.image),
            )
            for (source, grid), edges in requests.items()
        }
        return self._share(sites)

    def _whole(self, requests: _Requests) -> _Requests:
        """One grid a tensor, that of most bits, for all who read it."""
        grids: dict[fx.Node, list[IntGrid]] = defaultdict(list)
        for source, grid in requests:
            grids[source].append(grid)
        readers = {source: self.network.edges_out(source) for source in grids}
        return {
            (source, max(grids[source], key=lambda grid: grid.bits)): {Edge(self.network.name(u), n) for u, n in edges}
            for source, edges in readers.items()
        }

    def _edges(self) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        """The edges that carry integers: consumer, index, source; each once."""
        seen: set[tuple[fx.Node, int]] = set()
        for consumer, index, source in (*self._input_edges(), *self._output_edges()):
            known = (consumer, index) in seen or is_pooled(source)
            if not known and not self._is_float_skip(consumer, source):
                seen.add((consumer, index))
                yield consumer, index, source

    def _input_edges(self) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        for conv in self.planned:
            yield conv, 0, tensor_arguments(conv)[0]
            if self.rules.one_encoding:
                yield from self._moved_image(tensor_arguments(conv)[0])
        for node in self._others(self.rules.inputs):
            branch = self.fusing.branch(node)
            for index, source in self.network.edges_in(node):
                if source is not branch and self.fusing.last(source) is source:
                    yield node, index, source

    def _moved_image(self, node: fx.Node) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        """Where pixels are moved before the first convolution, the image itself has the encoding."""
        if self.network.ops[node] in MOVEMENT and compute_image_range(self.network, node, self.image) is not None:
            for index, source in self.network.edges_in(node):
                yield node, index, source
                yield from self._moved_image(source)

    def _skip(self, consumer: fx.Node, source: fx.Node) -> fx.Node | None:
        """The add that gives or reads a tensor, unless a convolution reads it."""
        if consumer in self.planned:
            return None
        return consumer if consumer in self.sums.values() else self.sums.get(source)

    def _is_float_skip(self, consumer: fx.Node, source: fx.Node) -> bool:
        add = self._skip(consumer, source)
        return add is not None and not self.recipe.skips.quantize and not self._wanted(add)

    def _output_edges(self) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        producers = self.planned if self.full and "conv" in self.rules.outputs else []
        for node in (*producers, *self._others(self.rules.outputs)):
            last = self.fusing.last(node)
            for consumer, index in self.network.edges_out(last):
                yield consumer, index, last

    def _others(self, kinds: frozenset[str]) -> Iterator[fx.Node]:
        """Operations of these kinds that join feature maps or only move them to convolutions; none under `convs`."""
        for node, op in self.network.ops.items():
            if self.full and op in kinds and op != "conv" and self._joins(node) and self._wanted(node):
                yield node

    def _joins(self, node: fx.Node) -> bool:
        if self.network.ops[node] in MOVEMENT:
            return all(user in self.planned for user, _ in self.network.edges_out(node))
        sources = self.network.edges_in(node)
        whole = not any(is_pooled(source) for _, source in sources)
        several = len(sources) > 1 or self.network.ops[node] not in ("add", "mul")
        return whole and several and self.stages.of(node) != "tail" and node in self.network.varying

    def _stage_of_edge(self, consumer: fx.Node, source: fx.Node) -> Stage:
        quantized = consumer in self.planned or self.network.ops[consumer] in self.rules.inputs
        return self.stages.of(consumer if quantized else source)

    def _grid(self, consumer: fx.Node, source: fx.Node, stage: Stage) -> IntGrid:
        bits = self._bits("activations", stage)
        if self._skip(consumer, source) is not None:
            bits = self.recipe.skips.bits or bits
        tensor = self.network.name(source)
        bits = self._overridden(bits, "activations", [*self._names(consumer), tensor], tensor)
        grid = self.rules.activations
        if self.rules.unsigned_if_nonnegative and self.network.is_nonnegative(source):
            grid = replace(grid, signed=False, narrow_range=False)
        return self.rules.sized(grid, bits)

    def _site_name(self, source: fx.Node, grid: IntGrid, requests: _Requests) -> str:
        alone = sum(other is source for other, _ in requests) == 1
        return self.network.name(source) + ("" if alone else f"@{grid.bits}")

    def _share(self, sites: Mapping[tuple[fx.Node, IntGrid], Site]) -> list[Site]:
        """Give sites on both sides of data movement, and of a shared concat, one group."""
        group = {wanted: site.name for wanted, site in sites.items()}
        for source, grid in sites:
            for origin in self._one_encoding_with(source):
                if (origin, grid) in group:
                    old, new = group[source, grid], group[origin, grid]
                    group.update({wanted: new for wanted, name in group.items() if name == old})
        return [replace(site, group=group[wanted]) for wanted, site in sites.items()]

    def _one_encoding_with(self, node: fx.Node) -> Iterator[fx.Node]:
        op = self.network.ops[node]
        if op == "cat" and self.rules.shared_concat:
            yield from (source for _, source in self.network.edges_in(node))
        if op in MOVEMENT:
            for _, source in self.network.edges_in(node):
                yield source
                yield from self._one_encoding_with(source)

    def floats(self) -> dict[str, str]:
        """What stays float, and why."""
        reasons = {self.network.name(conv): reason for conv, reason in self.refused.items()}
        for node, op in self.network.ops.items():
            known = op in MOVEMENT or op in self.rules.fused or op in ("input", "output") or node in self.network.convs
            if node in self.network.varying and not known and not self._reads_integers(node, op):
                reasons[self.network.name(node)] = self._why_not_integer(op)
        return reasons

    def _reads_integers(self, node: fx.Node, op: str) -> bool:
        return self.full and op in self.rules.inputs - {"conv"} and self._joins(node) and self._wanted(node)

    def _why_not_integer(self, op: str) -> str:
        if op == "conv":
            return "shifts the mean of an image: too little arithmetic to gain from integers"
        if op in self.rules.inputs:
            return "placement convs" if not self.full else "on pooled maps, after the last convolution or by recipe"
        return "no integer kernel on this target"
