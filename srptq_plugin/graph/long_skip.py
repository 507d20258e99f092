"""The long skip: the sum behind the body, which adds the output of the head once more."""

from torch import fx

from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import Stages


def find_long_skips(network: Network, stages: Stages) -> frozenset[fx.Node]:
    """Return the sums behind the body that add a map from before the body, which the body reads as well."""
    heads = [conv for conv in network.convs if stages.of(conv) == "head"]
    body = [conv for conv in network.convs if stages.of(conv) == "body"]
    of_head = {*heads, *network.downstream(heads)}
    read_by_body, behind_body = network.upstream(body), {*body, *network.downstream(body)}
    skipping = (of_head & read_by_body) - behind_body
    adds = (node for node, op in network.ops.items() if op == "add" and node in behind_body - read_by_body)
    return frozenset(add for add in adds if any(source in skipping for _, source in network.edges_in(add)))
