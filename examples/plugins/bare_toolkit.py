"""A toolkit: it inserts the quantizers of a plan into the exported graph, and does nothing else."""

from collections.abc import Iterable

from torch.export import ExportedProgram

from srptq_plugin.plugin_api import Plan, PreparedGraph, ToolkitEntry, hookimpl, own_module


class BareToolkit:
    """A toolkit around no other library."""

    version = "1.0"

    def realize(self, program: ExportedProgram, plan: Plan) -> PreparedGraph:
        """Insert the quantizers of the plan into a copy of the network."""
        return PreparedGraph.from_plan(own_module(program), plan)


@hookimpl
def srptq_toolkits() -> Iterable[ToolkitEntry]:
    """Register the toolkit."""
    return [ToolkitEntry("bare", "the quantizers of a plan, in a plain graph", load=BareToolkit)]
