"""The records of a plan: which tensors are quantized, for which readers, and on which grid."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from srptq_plugin.graph.limits import Limits, join_limits
from srptq_plugin.graph.network import OpKey
from srptq_plugin.graph.stages import Stage
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

Role = Literal["weight", "activation"]
ObserverFactoryForGrid = Callable[[IntGrid, int], Observer]
"""Makes an observer for a grid and a number of tensors that share it."""


@dataclass(frozen=True)
class QConfig:
    """The observer and the quantizer of all sites of a role."""

    observer: ObserverFactoryForGrid
    quantizer: type[BoundedFakeQuantize] = BoundedFakeQuantize
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the quantizer."""


@dataclass(frozen=True, order=True)
class Edge:
    """One reader of a tensor: an operation, and the index of the tensor among its tensor arguments."""

    # The consumer is the text of an `OpKey`, since plans, tables and artifacts look operations up by it, and nothing
    # parses it. Edges are ordered by it as well: the first consumer of a site follows from that order.
    consumer: str
    input_index: int


@dataclass(frozen=True)
class Site:
    """A quantization point: one tensor, for the readers that want the same grid."""

    name: str
    role: Role
    stage: Stage
    grid: IntGrid
    producer: OpKey | None
    """The operation that computes the tensor. None for a weight."""
    consumers: tuple[Edge, ...]
    group: str = ""
    """The name of the encoding. Sites of one group share bounds, and one quantizer."""
    bounds: tuple[float, float] | None = None
    """The exact range of a tensor that is the image. No observer looks at it."""
    repeats: bool = False
    """Another site of its group rounds its values, before they are moved or behind the concat that reads them."""
    limits: Limits | None = None
    """Values beyond change nothing: everything that reads them saturates."""

    @property
    def source(self) -> str:
        """The key of the producer as text, or the name of the parameter."""
        return self.name if self.producer is None else str(self.producer)

    @property
    def op(self) -> str:
        """The kind of operation that computes the tensor, empty for a weight."""
        return "" if self.producer is None else self.producer.op


@dataclass(frozen=True)
class Plan:
    """The sites of a network, and its parts by operation key."""

    sites: tuple[Site, ...]
    blocks: tuple[str, ...]
    """The operations whose outputs PaC compares with the float network's."""
    convs: tuple[str, ...]
    """The convolutions that run in integers."""
    floats: Mapping[str, str]
    """Why each other operation stays float."""
    integer_bias: bool = False
    """Biases are 32-bit integers."""
    qconfigs: Mapping[Role, QConfig] = field(default_factory=dict[Role, QConfig], repr=False)
    input_range: tuple[float, float] | None = field(default=None, compare=False)
    """The range of the input. None in a plan that is read from a file or from a toolkit's graph."""

    @cached_property
    def groups(self) -> Mapping[str, tuple[Site, ...]]:
        """The sites by the encoding that they share."""
        groups: dict[str, list[Site]] = defaultdict(list)
        for site in self.sites:
            groups[site.group].append(site)
        return {name: tuple(sites) for name, sites in groups.items()}

    @cached_property
    def by_edge(self) -> Mapping[Edge, Site]:
        """The site behind each edge that carries integers."""
        return {edge: site for site in self.sites for edge in site.consumers}

    def limits(self, group: str) -> Limits | None:
        """Return the values beyond which no tensor of a group changes anything, or None if there are none."""
        return join_limits([site.limits for site in self.groups[group]])

    @property
    def weights(self) -> tuple[Site, ...]:
        """The sites of weights."""
        return tuple(site for site in self.sites if site.role == "weight")
