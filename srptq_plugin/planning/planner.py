"""The planner: from a network's graph, a target's rules and a recipe to the sites of quantizers."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor, fx

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.fusion import FusionMatcher
from srptq_plugin.graph.image_range import compute_image_range
from srptq_plugin.graph.limits import Limits, compute_limits
from srptq_plugin.graph.long_skip import find_long_skips
from srptq_plugin.graph.network import MOVEMENT, OUTPUT, TRANSPOSED, Network, is_pooled, tensor_arguments
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.stages import Stage, Stages, find_blocks
from srptq_plugin.planning.float_reasons import LONG_SKIP, UNREAD, FloatReasons
from srptq_plugin.planning.integer_operations import IntegerOperations
from srptq_plugin.planning.plan import Edge, Plan, QConfig, Role, Site
from srptq_plugin.planning.recipe_choices import RecipeChoices
from srptq_plugin.planning.scale_groups import GridTensor, group_sites
from srptq_plugin.quantization.grid import INTEGER_WIDTH, IntGrid
from srptq_plugin.quantization.saturation import pair_limit
from srptq_plugin.recipes.recipe import Recipe


def make_plan(
    network: Network,
    rules: Rules,
    recipe: Recipe,
    image: tuple[float, float],
    qconfigs: Mapping[Role, QConfig] | None = None,
) -> Plan:
    """Plan every site of a network. All toolkits place their quantizers by this one plan.

    Args:
        image: The lower and the upper end of the network's input range.
        qconfigs: Observers and quantizers by role. A plan without them can be read, and not be realized.
    """
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
        input_range=image,
    )


_Readers = Mapping[GridTensor, set[Edge]]


class _Planner:
    def __init__(self, network: Network, rules: Rules, recipe: Recipe, image: tuple[float, float]) -> None:
        self.network, self.rules, self.recipe, self.image = network, rules, recipe, image
        self.stages = Stages(network)
        self.choices = RecipeChoices(network, self.stages, recipe)
        self.float_sums = find_long_skips(network, self.stages) if rules.float_long_skip else frozenset[fx.Node]()
        self.reasons = FloatReasons(network, rules, recipe, self.choices)
        self.full, self.everywhere = self.reasons.full, self.reasons.everywhere
        self.refused: dict[fx.Node, str] = {}
        self.layers = {*network.convs, *(network.transposed if TRANSPOSED in rules.inputs else ())}
        self.planned = [node for node in network.ops if node in self.layers and self._plans(node)]
        self.fusions = FusionMatcher(network, rules.fusions, self.planned)
        self.operations = IntegerOperations(self.reasons, self.fusions)
        self.joining = dict.fromkeys(self.operations.of(rules.inputs))  # in the order of the graph
        self.skips = [node for node, op in network.ops.items() if op == "add" and self.operations.joins(node)]
        self.sums = {self.fusions.last(add): add for add in self.skips}
        self.results = {*self.sums, *(self.fusions.last(layer) for layer in self.planned)}

    def weights(self) -> Iterator[Site]:
        """Yield one site per parameter, also if several convolutions read it."""
        readers: dict[str, list[fx.Node]] = defaultdict(list)
        for conv in self.planned:
            parameter = self.network.parameter(conv, 1)
            if parameter:
                readers[parameter[0]].append(conv)
        for name, convs in readers.items():
            stage = self.stages.of(convs[0])
            bits = self.choices.bits("weights", stage, convs[0], name)
            grid = replace(self.rules.sized(self.rules.weights, bits), channel_axis=self._channel_axis(convs[0]))
            grid = replace(grid, pair_limit=self._pair_limit(grid, convs))
            edges = tuple(Edge(self.network.name(conv), 1) for conv in convs)
            yield Site(name, "weight", stage, grid, None, edges, group=name)

    def activations(self) -> list[Site]:
        """Return one site per tensor and grid, in groups of one encoding."""
        requests: dict[GridTensor, set[Edge]] = defaultdict(set)
        stages: dict[GridTensor, Stage] = {}
        for consumer, index, source in self._edges():
            stage = self._stage_of_edge(consumer, source)
            tensor = source, self._grid(consumer, source, stage)
            requests[tensor].add(Edge(self.network.name(consumer), index))
            stages.setdefault(tensor, stage)
        if self.rules.stored_once and self.full:
            self._let_all_read(requests)
        readers = self._on_one_grid(requests) if self.rules.one_grid_per_tensor else requests
        sites = {
            (source, grid): Site(
                self._site_name(source, grid, readers),
                "activation",
                stages[source, grid],
                grid,
                self.network.keys[source],
                tuple(sorted(edges)),
                bounds=compute_image_range(self.network, source, self.image) or self._wide_bounds(source, grid),
                limits=self._limits(edges, grid),
            )
            for (source, grid), edges in readers.items()
        }
        return group_sites(self.network, self.rules, sites)

    def floats(self) -> dict[str, str]:
        """Return why operations stay float, by operation key."""
        reasons = {self.network.name(conv): reason for conv, reason in self.refused.items()}
        reasons |= {self.network.name(add): LONG_SKIP for add in self.float_sums if add in self.joining}
        for node, op in self.network.ops.items():
            is_integer = node in self.layers or self.operations.needs_no_kernel(node, op) or node in self.joining
            is_integer = is_integer or (self.everywhere and node not in self.refused and self.choices.quantizes(node))
            if node in self.network.varying and not is_integer:
                unread = self.operations.is_named(node, self.rules.inputs) and not self.operations.is_read(node)
                reasons[self.network.name(node)] = UNREAD if unread else self.reasons.operation(op)
        return reasons

    def _plans(self, conv: fx.Node) -> bool:
        reason = self.reasons.layer(conv)
        if reason:
            self.refused[conv] = reason
        return not reason

    def _channel_axis(self, conv: fx.Node) -> int | None:
        """Return the axis of the output channels of a weight, or None if it has one scale."""
        is_transposed = self.network.ops[conv] == TRANSPOSED
        # No axis holds the output channels of a transposed convolution in groups.
        single = not self.recipe.weights.per_channel or (is_transposed and self.network.groups(conv) > 1)
        return None if single else int(is_transposed)

    def _pair_limit(self, grid: IntGrid, convs: list[fx.Node]) -> int | None:
        """Return the largest safe sum of two neighboring weights. Inputs of more bits allow smaller sums."""
        # A depthwise kernel adds no products of two channels, so nothing saturates.
        if not self.recipe.weights.overflow_safe or all(self.network.is_depthwise(conv) for conv in convs):
            return None
        inputs = ((conv, tensor_arguments(conv)[0]) for conv in convs)
        grids = [self._grid(conv, source, self.stages.of(conv)) for conv, source in inputs]
        return pair_limit(self.rules.pair_sum_bits, grid, max(grids, key=lambda grid: grid.bits))

    def _let_all_read(self, requests: Mapping[GridTensor, set[Edge]]) -> None:
        """Let readers that asked for no integers read those that another reader asked for, if there is one grid."""
        grids = Counter(source for source, _ in requests)
        for (source, _), edges in requests.items():
            if grids[source] == 1:
                for user, index in self.network.edges_out(source):
                    is_left = self._reads_float(user, source) or not self.choices.quantizes(user)
                    if self.network.ops[user] != OUTPUT and not is_left:
                        edges.add(Edge(self.network.name(user), index))

    def _on_one_grid(self, requests: _Readers) -> _Readers:
        """Give each tensor the grid of most bits for all of its readers, also those that asked for none."""
        grids: dict[fx.Node, list[IntGrid]] = defaultdict(list)
        for source, grid in requests:
            grids[source].append(grid)
        readers = {source: self.network.edges_out(source) for source in grids}
        return {
            (source, max(grids[source], key=lambda grid: grid.bits)): {Edge(self.network.name(u), n) for u, n in edges}
            for source, edges in readers.items()
        }

    def _edges(self) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        """Yield each edge that carries integers once: consumer, index, source."""
        seen: set[tuple[fx.Node, int]] = set()
        for consumer, index, source in (*self._input_edges(), *self._output_edges()):
            joins = consumer in self.joining or source in self.joining
            is_read = self.everywhere or joins or not is_pooled(source)
            if is_read and (consumer, index) not in seen and not self._reads_float(consumer, source):
                # Both sides may ask for one edge: the output of an operation, and the input of the next.
                seen.add((consumer, index))
                yield consumer, index, source

    def _input_edges(self) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        for conv in self.planned:
            yield conv, 0, tensor_arguments(conv)[0]
            if self.rules.one_grid_per_tensor:
                yield from self._moved_image(tensor_arguments(conv)[0])
        for node in self.joining:
            for index, source in self.network.edges_in(node):
                if self.fusions.fused_reader(source) is None and not self._is_rounded_behind(node, source):
                    yield node, index, source

    def _is_rounded_behind(self, cat: fx.Node, source: fx.Node) -> bool:
        """Tell whether a concat's activation rounds an input that nothing else reads. The target moves it before."""
        alone = {user for user, _ in self.network.edges_out(source)} == {cat} and source in self.planned
        is_activated = self.network.ops[cat] == "cat" and self.fusions.fused_reader(cat) is not None
        return self.rules.stored_once and alone and is_activated

    def _moved_image(self, node: fx.Node) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        """Yield the edges from the image through movement to the first convolution: they have one encoding."""
        if self.network.ops[node] in MOVEMENT and compute_image_range(self.network, node, self.image) is not None:
            for index, source in self.network.edges_in(node):
                yield node, index, source
                yield from self._moved_image(source)

    def _output_edges(self) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        producers = [node for node in self.planned if self.full and self.network.ops[node] in self.rules.outputs]
        others = self._tensors() if self.everywhere else self.operations.of(self.rules.outputs)
        for node in (*producers, *others):
            yield from self._edges_behind(self.fusions.last(node))

    def _edges_behind(self, source: fx.Node) -> Iterator[tuple[fx.Node, int, fx.Node]]:
        """Yield the edges that read a tensor, or its moved values if the target rounds where they are read."""
        for consumer, index in self.network.edges_out(source):
            if self.rules.outputs_as_skips and self.network.ops[consumer] in MOVEMENT:
                yield from self._edges_behind(consumer)
            else:
                yield consumer, index, source

    def _tensors(self) -> Iterator[fx.Node]:
        """Yield what computes a tensor of real numbers that the recipe quantizes. Movement keeps the encoding."""
        for node, op in self.network.ops.items():
            value = node.meta.get("val")
            is_real = value is None or (isinstance(value, Tensor) and value.is_floating_point())
            computes = node in self.network.varying and op not in (*MOVEMENT, OUTPUT) and is_real
            if computes and node not in self.refused and self.choices.quantizes(node):
                yield node

    def _skip(self, consumer: fx.Node, source: fx.Node) -> fx.Node | None:
        """Return the add that reads or makes a tensor, or None if there is none or a convolution reads it."""
        if consumer in self.planned:
            return None
        return consumer if consumer in self.skips else self.sums.get(source)

    def _is_result(self, consumer: fx.Node, source: fx.Node) -> bool:
        """Tell whether a reader without integers of its own reads what a layer or an add gives, moved or not."""
        while self.network.ops[source] in MOVEMENT:
            source = self.network.edges_in(source)[0][1]
        is_other = consumer not in self.planned and consumer not in self.joining
        return self.rules.outputs_as_skips and is_other and source in self.results

    def _reads_float(self, consumer: fx.Node, source: fx.Node) -> bool:
        """Tell whether floats are read: by operations of the target, its long skip, or skips that the recipe leaves."""
        add = self._skip(consumer, source)
        left = self._is_result(consumer, source) if add is None else not self.choices.quantizes(add)
        is_left = left and not self.recipe.skips.quantize
        return is_left or consumer in self.float_sums or self.network.ops[consumer] in self.rules.float_inputs

    def _stage_of_edge(self, consumer: fx.Node, source: fx.Node) -> Stage:
        reads = consumer in self.planned or self.operations.is_named(consumer, self.rules.inputs | MOVEMENT)
        return self.stages.of(consumer if reads else source)

    def _grid(self, consumer: fx.Node, source: fx.Node, stage: Stage) -> IntGrid:
        skip = self._skip(consumer, source) is not None or self._is_result(consumer, source)
        bits = self.choices.bits("activations", stage, consumer, self.network.name(source), skip=skip)
        grid, nonnegative = self.rules.activations, self.network.is_nonnegative(source)
        if self.network.ops[consumer] in self.rules.symmetric_inputs:
            grid = replace(grid, symmetric=True, signed=not nonnegative)
        elif nonnegative and self.rules.nonnegative_activations is not None:
            grid = self.rules.nonnegative_activations
        return self.rules.sized(grid, bits)

    def _wide_bounds(self, source: fx.Node, grid: IntGrid) -> tuple[float, float] | None:
        bounds = {known.op: (known.low, known.high) for known in self.rules.wide_bounds}
        return bounds.get(self.network.ops[source]) if grid.bits > INTEGER_WIDTH else None

    def _limits(self, edges: set[Edge], grid: IntGrid) -> Limits | None:
        readers = ((self.network.nodes[edge.consumer], edge.input_index) for edge in edges)
        return compute_limits(self.network, readers, grid.bits)

    def _site_name(self, source: fx.Node, grid: IntGrid, readers: _Readers) -> str:
        grids = [other for node, other in readers if node is source]
        alike = sum(other.bits == grid.bits for other in grids) > 1
        kind = "-symmetric" if alike and grid.symmetric else ""
        return self.network.name(source) + ("" if len(grids) == 1 else f"@{grid.bits}{kind}")
