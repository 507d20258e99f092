"""The long skip: the sum behind the body, which adds the output of the head once more."""

from collections.abc import Iterator

from torch import fx

from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import Stages

Reading = tuple[fx.Node, fx.Node]
"""An operation, and a feature map that it reads."""


def find_long_skips(network: Network, stages: Stages) -> frozenset[Reading]:
    """Return the sums behind the body, each with the map from before the body that it adds."""
    return frozenset(_iter_long_skips(network, stages))


def _iter_long_skips(network: Network, stages: Stages) -> Iterator[Reading]:
    heads = [conv for conv in network.convs if stages.of(conv) == "head"]
    body = [conv for conv in network.convs if stages.of(conv) == "body"]
    of_head = {*heads, *network.downstream(heads)}
    read_by_body, behind_body = network.upstream(body), {*body, *network.downstream(body)}
    for add, op in network.ops.items():
        if op == "add" and add in behind_body and add not in read_by_body:
            sources = (source for _, source in network.edges_in(add))
            yield from ((add, source) for source in sources if source in (of_head & read_by_body) - behind_body)
