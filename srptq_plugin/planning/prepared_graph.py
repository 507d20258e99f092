"""The prepared graph: a network with fake quantizers at its sites, placed by any toolkit."""

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import Network, drop_guards, tensor_arguments
from srptq_plugin.planning.plan import Plan, Role, Site
from srptq_plugin.quantization.grid import Bounds, QParams
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.utils.progress import Progress, quiet

Features = tuple[Tensor, tuple[Tensor, ...]]
"""The output image, and the outputs of the blocks."""
SILENT = 1e-30
"""The least noise, so that its logarithm is finite."""
SHAPED = frozenset({"reshape", "expand", "repeat", "full", "ones", "zeros"})
"""Operations with the batch in their arguments: a graph that was traced for one image holds 1 there."""
FLOAT = "srptq_float"
"""The key in a graph module's meta of the float network's parameters, kept when its own may change."""


class PreparedGraph:
    """A network with quantizers, and the float network with the same graph.

    Observing, tuning and comparing work on this form only, so they know no toolkit.
    """

    def __init__(self, module: fx.GraphModule, plan: Plan) -> None:
        self.module, self.plan = module, plan
        quantizers = {part.name: part for part in module.modules() if isinstance(part, BoundedFakeQuantize)}
        missing = [group for group in plan.groups if group not in quantizers]
        if missing:
            raise SrptqError(f"prepared graph: no quantizer was placed for {', '.join(missing)}")
        self.quantizers = {group: quantizers[group] for group in plan.groups}
        self.capture = _with_features(module, plan.blocks)
        self._single = takes_one_image(module)
        self._float = {name: p.detach().clone() for name, p in _float_parameters(self.capture)}
        for name, known in module.meta.get(FLOAT, {}).items():
            if name in self._float:
                self._float[name] = known.to(self._float[name].device)

    @classmethod
    def float_only(cls, module: fx.GraphModule) -> "PreparedGraph":
        """Return the float network in this form, without a site."""
        return cls(module, Plan((), (), (), {}))

    @classmethod
    def wrap(cls, module: fx.GraphModule, plan: Plan) -> "PreparedGraph":
        """Wrap a toolkit's prepared model in place. Wrapped again after tuning, it has the same float network."""
        module.meta[FLOAT] = float_parameters(module)
        return cls(module, plan)

    @classmethod
    def from_plan(cls, module: fx.GraphModule, plan: Plan) -> "PreparedGraph":
        """Insert quantizers by a plan, without a toolkit. The parameters are shared with the module."""
        quantizers = {group: build_quantizer(plan, group) for group in plan.groups}
        return cls(insert_quantizers(module, plan, quantizers), plan)

    def __call__(self, images: Tensor) -> Tensor:
        """Run images in the present mode of the quantizers, and return the output images."""
        return self.features(images)[0]

    def to(self, device: torch.device) -> "PreparedGraph":
        """Move everything to a device."""
        self.module.to(device)
        self.capture.to(device)
        self._float = {name: p.to(device) for name, p in self._float.items()}
        return self

    def features(self, images: Tensor) -> Features:
        """Return the output and the outputs of the blocks, with one sample per image in each."""
        return self._in_parts(images, self.capture)

    def float_forward(self, images: Tensor) -> Features:
        """Return the features of the float network: quantizers off, parameters as before tuning."""
        with self.mode(Mode.OFF), torch.no_grad():
            return self._in_parts(images, lambda part: functional_call(self.capture, self._float, (part,)))

    def _in_parts(self, images: Tensor, forward: Callable[[Tensor], Features]) -> Features:
        """Run as many images at once as the graph takes, and join what comes out."""
        chunks: list[Features] = []
        for part in images.split(self.batch(len(images))):
            output, maps = forward(part)
            chunks.append((output, tuple(by_image(feature, len(part)) for feature in maps)))
        if len(chunks) == 1:
            return chunks[0]
        outputs, maps = zip(*chunks, strict=True)
        return torch.cat(outputs), tuple(map(torch.cat, zip(*maps, strict=True)))

    def batch(self, usual: int) -> int:
        """Return how many images may run at once: `usual`, or 1 if the graph was traced for one."""
        return 1 if self._single else usual

    def noise(self, images: Tensor, teacher: Tensor) -> float:
        """Return the mean squared difference from the float network's images, at least `SILENT`."""
        with torch.no_grad():
            return max(float((self(images) - teacher).double().square().mean()), SILENT)

    def of_role(self, role: Role) -> dict[str, BoundedFakeQuantize]:
        """Return the quantizers of weights or of activations, by group."""
        return {g: self.quantizers[g] for g, sites in self.plan.groups.items() if sites[0].role == role}

    def set_mode(self, mode: Mode) -> None:
        """Switch every quantizer."""
        for quantizer in self.quantizers.values():
            quantizer.set_mode(mode)

    @contextmanager
    def mode(self, mode: Mode) -> Generator[None]:
        """Switch every quantizer within `with`. Frozen values stay frozen."""
        before = {quantizer: quantizer.mode for quantizer in self.quantizers.values()}
        try:
            for quantizer in before:
                quantizer.mode = mode
            yield
        finally:
            for quantizer, old in before.items():
                quantizer.mode = old

    def observe(self, batches: Sequence[Tensor], progress: Progress = quiet) -> None:
        """Run every batch through the observers, then quantize on the bounds that they chose."""
        self.set_mode(Mode.OBSERVE)
        with torch.no_grad():
            for done, batch in enumerate(batches):
                progress("observing", done, len(batches))
                self(batch)
        self.set_mode(Mode.QUANTIZE)
        progress("observing", len(batches), len(batches))

    def on_train_begin(self, images: Tensor) -> None:
        """Let the quantizers of each class prepare a training. They may run the float network on `images`."""
        kinds: dict[type[BoundedFakeQuantize], list[BoundedFakeQuantize]] = defaultdict(list)
        for quantizer in self.quantizers.values():
            kinds[type(quantizer)].append(quantizer)
        for kind, members in kinds.items():
            kind.on_train_begin(members, partial(self.float_forward, images))

    def qparams(self) -> dict[str, QParams]:
        """Return the quantization parameters of each site as they would be exported now."""
        for site in self.plan.weights:
            self.quantizers[site.group].refresh(self.parameter(site))
        for quantizer in self.quantizers.values():
            quantizer.finish_observing()
        by_group = {name: quantizer.qparams().detach() for name, quantizer in self.quantizers.items()}
        return {site.name: by_group[site.group] for site in self.plan.sites}

    def parameter(self, site: Site) -> nn.Parameter:
        """Return the parameter of a weight's site, as tuned."""
        return self.module.get_parameter(site.source)

    def float_weight(self, site: Site) -> Tensor:
        """Return the parameter of a weight's site as in the float network."""
        return self._float[self._names[self.parameter(site)]]

    @cached_property
    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.capture.named_parameters()}

    @cached_property
    def biases(self) -> dict[str, nn.Parameter]:
        """The biases of the planned convolutions, by operation key."""
        network, own = Network(self.module), dict(self.module.named_parameters())
        biases = {conv: network.parameter(network.nodes[conv], 2) for conv in self.plan.convs}
        return {conv: own[bias[0]] for conv, bias in biases.items() if bias and bias[0] in own}

    def tuned_biases(self) -> dict[str, Tensor]:
        """Return copies of the biases that differ from the float network's, by operation key."""
        before = {conv: self._float[self._names[bias]] for conv, bias in self.biases.items()}
        tuned = ((conv, bias) for conv, bias in self.biases.items() if not torch.equal(bias, before[conv]))
        return {conv: bias.detach().clone() for conv, bias in tuned}


Shell = Callable[[type[BoundedFakeQuantize]], type[BoundedFakeQuantize]]
"""Derives from a quantizer's class one that a toolkit accepts."""


def unchanged(kind: type[BoundedFakeQuantize]) -> type[BoundedFakeQuantize]:
    """Return the class itself, for graphs without a toolkit."""
    return kind


def build_quantizer(plan: Plan, group: str, shell: Shell = unchanged) -> BoundedFakeQuantize:
    """Build the quantizer that a group of sites shares, on exact bounds if all of its tensors are the image."""
    sites, first = plan.groups[group], plan.groups[group][0]
    ends = [site.bounds for site in sites if site.bounds is not None]
    if len(ends) == len(sites):
        image = Bounds.of(min(lower for lower, _ in ends), max(upper for _, upper in ends))
        return shell(BoundedFakeQuantize)(group, first.grid, bounds=image)
    qconfig = plan.qconfigs.get(first.role)
    observer = qconfig.observer(first.grid, len(sites)) if qconfig else None
    kind, options = (qconfig.quantizer, qconfig.options) if qconfig else (BoundedFakeQuantize, {})
    quantizer = shell(kind)(group, first.grid, observer, constant=first.role == "weight", options=options)
    quantizer.limits = plan.limits(group)
    return quantizer


Naming = Callable[[int, fx.Node], str]
"""Returns the name of a quantizer in a graph, from the number of the site and the node of its tensor."""


def site_number(number: int, _source: fx.Node | None = None) -> str:
    """Return the usual name."""
    return f"srptq_site_{number}"


def insert_quantizers(
    module: fx.GraphModule, plan: Plan, by_group: Mapping[str, nn.Module], naming: Naming = site_number
) -> fx.GraphModule:
    """Return a copy of an exported network with one quantizer call per site, which the consumers of the site read.

    Args:
        by_group: The module of each group. Sites of one group call the same module.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(module.graph, copies)
    graph.output(output)
    copy = fx.GraphModule(module, graph)
    network = Network(module)
    for number, site in enumerate(plan.sites):
        first = network.nodes[site.consumers[0].consumer]
        source = copies[tensor_arguments(first)[site.consumers[0].input_index]]
        name = naming(number, source)
        copy.add_submodule(name, by_group[site.group])
        readers = _readers(network, copies, site, graph)
        with graph.inserting_after(_last_definition(source, graph)):
            call = graph.call_module(name, (source,))
        for reader in readers:
            reader.replace_input_with(source, call)
    copy.recompile()
    return copy


def _readers(network: Network, copies: Mapping[fx.Node, fx.Node], site: Site, graph: fx.Graph) -> list[fx.Node]:
    nodes = (network.nodes[edge.consumer] for edge in site.consumers)
    # `graph_copy` leaves the output node out. The new one is the last node.
    return [next(iter(reversed(graph.nodes))) if node.op == "output" else copies[node] for node in nodes]


def _last_definition(node: fx.Node, graph: fx.Graph) -> fx.Node:
    """Return the node behind which a call on `node` may stand: all inputs of a graph come before its calls."""
    if node.op not in ("placeholder", "get_attr"):
        return node
    return next(n for n in reversed(list(graph.nodes)) if n.op in ("placeholder", "get_attr"))


def _with_features(module: fx.GraphModule, blocks: Sequence[str]) -> fx.GraphModule:
    """Return a graph of the same modules that returns the outputs of the blocks as well, without checks of sizes."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(module.graph, copies)
    while isinstance(output, (tuple, list)):
        output = output[0]
    nodes = Network(module).nodes
    graph.output((output, tuple(copies[nodes[block]] for block in blocks)))
    drop_guards(graph)
    return fx.GraphModule(module, graph)


def fixed_size(module: fx.GraphModule) -> tuple[int, int] | None:
    """Return the only height and width that a graph runs at, or None if it runs at others."""
    height, width = Network(module).input.meta["val"].shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def takes_one_image(module: fx.GraphModule) -> bool:
    """Tell whether a graph runs one image at a time: it was traced for one, and has that in its shapes."""
    network = Network(module)
    batch, *_ = getattr(network.input.meta.get("val"), "shape", (None,))  # not every tracer records shapes
    return isinstance(batch, int) and batch == 1 and not SHAPED.isdisjoint(network.ops.values())


def by_image(features: Tensor, images: int) -> Tensor:
    """Return features with one sample per image. Networks may fold windows or channels into the batch.

    >>> by_image(torch.zeros(6, 8, 5, 5), 2).shape
    torch.Size([2, 24, 5, 5])
    """
    return features.reshape(images, -1, *features.shape[2:])


def float_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return the float network's parameters: the kept ones of a model that may have been tuned, or its own."""
    known: dict[str, Tensor] | None = getattr(module, "meta", {}).get(FLOAT)
    return known or {name: p.detach().clone() for name, p in _float_parameters(module)}


def _float_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # By identity: a quantizer may be registered under several names, and its bounds belong to no network.
    bounds = {id(p) for m in module.modules() if isinstance(m, BoundedFakeQuantize) for p in m.parameters()}
    return ((name, p) for name, p in module.named_parameters() if id(p) not in bounds)
