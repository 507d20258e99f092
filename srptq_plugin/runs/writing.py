"""Writing the files of a run: the recipe, the quant table, the target's files and the verified summary."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.runs.run import NETWORK, RECIPE, SUMMARY, TABLE, Run
from srptq_plugin.runs.summary import Record, collect_versions, runtime_version, summarize
from srptq_plugin.runs.verify import verify
from srptq_plugin.utils.progress import Progress
from srptq_plugin.utils.timing import Clock

SIDES = (320, 512)
"""The height and width that a vendor's command names, where the file takes any."""


@dataclass(frozen=True)
class RunWriter:
    """A writer of the files that every run has. The float network's own files are written before."""

    bound: BoundRecipe
    record: ModelRecord
    size: Size | None
    clock: Clock
    progress: Progress

    def write(self, draft: Path, table: QuantTable) -> list[str]:
        """Write the recipe, the quant table and the target's files. Return the names of the target's files."""
        (draft / RECIPE).write_text(self.bound.recipe.to_yaml())
        table.save(draft / TABLE)
        written = self.bound.target.write(draft / NETWORK, table, draft, **self.bound.recipe.export)
        return [path.name for path in written]

    def finish(
        self,
        draft: Path,
        table: QuantTable,
        artifacts: list[str],
        figures: Mapping[str, Any],
        groups: Mapping[str, Record] | None = None,
    ) -> None:
        """Verify the run and write its summary.

        Args:
            draft: The folder of the run.
            table: The quant table.
            artifacts: The names of the target's files.
            figures: More entries of the summary.
            groups: Records from `of_group` by the name of the group.
        """
        summary = summarize(self.bound.recipe, self.record, self.size, table, groups)
        summary["versions"] = collect_versions(self.bound)
        summary["toolkit_version"] = self.bound.toolkit.version
        summary |= {**figures, "artifacts": artifacts, "seconds": self.clock.seconds}
        # Verifying opens the run, which needs a summary. Its results are added afterwards.
        _write_json(draft / SUMMARY, summary)
        with self.clock("verify"):
            summary["verify"] = verify(Run.open(draft, self.bound.registry), progress=self.progress)
        summary["versions"] |= runtime_version(summary["verify"]["runtime"])
        summary["command"] = self._command(draft / artifacts[0]) if artifacts else ""
        summary["seconds"] = self.clock.seconds
        _write_json(draft / SUMMARY, summary)

    def _command(self, artifact: Path) -> str:
        height, width = map(self.record.fitted, SIDES)
        size = self.size or (1, self.record.channels, height, width)
        return self.bound.target.command(artifact, size, fixed=self.size is not None)


def amend_summary(folder: Path, entries: Mapping[str, Any]) -> None:
    """Add entries to the summary of a run."""
    path = folder / SUMMARY
    _write_json(path, json.loads(path.read_text()) | entries)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
