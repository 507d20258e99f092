"""The modules in which the nodes of a graph were traced."""

from collections.abc import Mapping
from typing import Any

from torch import fx

INSERTED = "(inserted)"
"""The path of operations that a toolkit added to an exported graph: they must not count among the network's own."""


def path_of(node: fx.Node, root: str) -> str:
    """Return the path of a node's module, or `INSERTED` if the node was not traced in a network of class `root`."""
    path = module_path(node)
    return INSERTED if not path and _traced_from(node) not in ("", root) else path


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost module that a node was traced in, or of the layer that it calls."""
    if node.op == "call_module" and not _stack(node):
        return str(node.target)
    return next((entry[0].split("@")[0] for entry in reversed(list(_stack(node).values()))), "")


def root_class(graph: fx.Graph) -> str:
    """Return the class of the network: the outermost module of the most deeply nested node.

    A toolkit traces its insertions in modules of its own, which have no submodules.
    """
    deepest = max(graph.nodes, key=lambda node: len(_stack(node)))
    return _traced_from(deepest)


def _traced_from(node: fx.Node) -> str:
    """Return the class of the outermost module in which a node was traced, or "" if the tracer does not say."""
    return next((str(entry[1]) for entry in _stack(node).values()), "")


def _stack(node: fx.Node) -> Mapping[str, tuple[str, Any]]:
    """Return the modules in which a node was traced, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    # torch.export marks the nodes that it adds itself by a placeholder of this name.
    return {key: entry for key, entry in stack.items() if not key.startswith("_empty")}
