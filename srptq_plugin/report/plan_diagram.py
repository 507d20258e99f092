"""The plan of a run as a diagram: stages, in them blocks, in them operations with their bits."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from torch import fx

from srptq_plugin.graph.network import INPUT, OUTPUT, Network
from srptq_plugin.graph.stages import STAGES, Stages, block_paths
from srptq_plugin.planning.plan import Edge, Plan
from srptq_plugin.runs.run import Run

State = Literal["integer", "float", "passed"]
"""Whether an operation reads integers, stays float, or belongs to the kernel of another one."""
LAYERS = ("conv", "conv_transpose", "matmul")


@dataclass(frozen=True)
class Operation:
    """An operation of the diagram.

    Attributes:
        name: Its key.
        op: Its kind.
        state: What it computes in.
        bits: The bits of its weight and of its input, as far as it has them in integers.
        reason: Why it stays float.
    """

    name: str
    op: str
    state: State
    bits: tuple[int, ...]
    reason: str = ""

    @property
    def wide(self) -> bool:
        """Whether it multiplies weights."""
        return self.op in LAYERS

    @property
    def about(self) -> str:
        """A line about the operation."""
        bits = " and ".join(f"{bits} bits" for bits in dict.fromkeys(self.bits))
        states = {"integer": f"reads {bits}", "float": f"stays float: {self.reason}", "passed": "in another's kernel"}
        return f"{self.name}: {states[self.state]}"


@dataclass(frozen=True)
class Block:
    """A block of a network, or operations between blocks, which have no name."""

    name: str
    operations: Sequence[Operation]


@dataclass(frozen=True)
class StageBox:
    """A stage with its blocks, and its tensors by bits."""

    name: str
    blocks: Sequence[Block]
    weights: Counter[int]
    activations: Counter[int]


@dataclass(frozen=True)
class PlanDiagram:
    """The stages of a network, and the operations that stay float by reason."""

    stages: Sequence[StageBox]
    floats: Sequence[tuple[str, Sequence[str]]]

    @classmethod
    def of(cls, run: Run) -> "PlanDiagram":
        """Draw the plan of a run."""
        network, plan = Network(run.network), run.table.plan
        stages, paths = Stages(network), block_paths(network)
        nodes = [node for node, op in network.ops.items() if op not in (INPUT, OUTPUT) and node in network.varying]
        boxes = [_stage(name, [n for n in nodes if stages.of(n) == name], network, plan, paths) for name in STAGES]
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in plan.floats.items():
            reasons[reason].append(name)
        return cls([box for box in boxes if box.blocks], list(reasons.items()))

    @property
    def bits(self) -> Sequence[int]:
        """All bits in the diagram."""
        return sorted({bits for box in self.stages for bits in (*box.weights, *box.activations)})


def _stage(name: str, nodes: Sequence[fx.Node], network: Network, plan: Plan, paths: Sequence[str]) -> StageBox:
    blocks = [Block(block, list(own)) for block, own in _blocks(nodes, network, plan, paths)]
    counts = {role: Counter[int]() for role in ("weight", "activation")}
    for site in plan.sites:
        if site.stage == name:
            counts[site.role][site.grid.bits] += 1
    return StageBox(name, blocks, counts["weight"], counts["activation"])


def _blocks(
    nodes: Sequence[fx.Node], network: Network, plan: Plan, paths: Sequence[str]
) -> Iterator[tuple[str, Iterator[Operation]]]:
    def block_of(node: fx.Node) -> str:
        path = network.keys[node].path
        return next((block for block in paths if f"{path}.".startswith(f"{block}.")), "")

    for block, own in groupby(nodes, block_of):
        yield block, (_operation(network.name(node), network.ops[node], plan) for node in own)


def _operation(name: str, op: str, plan: Plan) -> Operation:
    edges = (plan.by_edge.get(Edge(name, index)) for index in (1, 0))
    bits = tuple(site.grid.bits for site in edges if site is not None)
    if name in plan.floats:
        return Operation(name, op, "float", (), plan.floats[name])
    return Operation(name, op, "integer" if bits else "passed", bits)
