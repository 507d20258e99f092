"""The records of a plan: which tensors are quantized, for whom, and on which grid."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from srptq_plugin.graph.network import MOVEMENT
from srptq_plugin.graph.stages import Stage
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize

Role = Literal["weight", "activation"]
ObserverFactoryForGrid = Callable[[IntGrid, int], Observer]
"""Makes an observer for a grid and a number of places."""


@dataclass(frozen=True)
class QConfig:
    """What the sites of a role are observed and quantized by."""

    observer: ObserverFactoryForGrid
    quantizer: type[BoundedFakeQuantize] = BoundedFakeQuantize
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The quantizer's."""


@dataclass(frozen=True, order=True)
class Edge:
    """One consumer of a tensor: the operation that reads it, and at which place."""

    consumer: str
    input_index: int


@dataclass(frozen=True)
class Site:
    """One tensor for one group of consumers, with bits and a grid of its own."""

    name: str
    role: Role
    stage: Stage
    grid: IntGrid
    source: str
    consumers: tuple[Edge, ...]
    group: str = ""
    bounds: tuple[float, float] | None = None

    @property
    def op(self) -> str:
        """The kind of operation that gives the tensor, empty for a weight."""
        return "" if self.role == "weight" else self.source.rpartition("/")[2].partition(".")[0]


@dataclass(frozen=True)
class Plan:
    """The sites of a network, the blocks that PaC looks at, and what stays float and why."""

    sites: tuple[Site, ...]
    blocks: tuple[str, ...]
    convs: tuple[str, ...]
    floats: Mapping[str, str]
    integer_bias: bool = False
    qconfigs: Mapping[Role, QConfig] = field(default_factory=dict[Role, QConfig], repr=False)

    @cached_property
    def groups(self) -> Mapping[str, tuple[Site, ...]]:
        """The sites by the encoding that they share."""
        groups: dict[str, list[Site]] = defaultdict(list)
        for site in self.sites:
            groups[site.group].append(site)
        return {name: tuple(sites) for name, sites in groups.items()}

    @cached_property
    def by_edge(self) -> Mapping[Edge, Site]:
        """Who reads what by which site."""
        return {edge: site for site in self.sites for edge in site.consumers}

    @property
    def weights(self) -> tuple[Site, ...]:
        """The sites of weights."""
        return tuple(site for site in self.sites if site.role == "weight")

    def is_moved(self, site: Site) -> bool:
        """Whether a site only repeats the encoding of integers that were moved: what moved them reads that encoding."""
        edges = (edge for other in self.groups[site.group] for edge in other.consumers)
        return site.op in MOVEMENT and any(edge.consumer == site.source for edge in edges)
