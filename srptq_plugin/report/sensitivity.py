"""What parts of a network cost the image, as `srptq analyze` measured it for a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srptq_plugin.analysis import ANALYSIS, KINDS
from srptq_plugin.errors import LONGEST, SrptqError, short
from srptq_plugin.runs.run import Run

SHOWN = 8
"""How many blocks and sites are shown, the most costly first."""
TITLES = {"stage": "stages", "block": "blocks", "site": "sites"}


@dataclass(frozen=True)
class PartCost:
    """A part of a network, with its noise quantized alone and left float, and the PSNR against the float network.

    `share` is its noise alone as a share of the noise of the whole, at most 1.
    """

    name: str
    share: float
    alone: float | None
    left_float: float | None


@dataclass(frozen=True)
class Parts:
    """Parts of one kind, the most costly first. `more` are not shown."""

    title: str
    shown: Sequence[PartCost]
    more: int


@dataclass(frozen=True)
class Sensitivity:
    """The PSNR of the whole network against the float network, and its parts."""

    whole: float | None
    kinds: Sequence[Parts]
    noise: Mapping[str, float]
    """The noise of each site alone, by the name of its encoding."""

    @classmethod
    def of_run(cls, run: Run) -> "Sensitivity | None":
        """Read the analysis of a run. Return None if it has none, or if it is of an earlier run in this folder."""
        path = run.folder / ANALYSIS
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            sensitivity = cls._read(record)
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise SrptqError(f"{path}: damaged ({short(repr(error), LONGEST)}); run `srptq analyze` again") from error
        groups = {group for part in record["parts"] for group in part["groups"]}
        return sensitivity if groups <= set(run.table.plan.groups) else None

    @classmethod
    def _read(cls, record: Mapping[str, Any]) -> "Sensitivity":
        whole = float(record["quantized"]["noise"])
        # combinations of stages say little more than the stages
        single = [part for part in record["parts"] if " + " not in part["name"]]
        kinds = [_parts(kind, [part for part in single if part["kind"] == kind], whole) for kind in KINDS]
        sites = [part for part in record["parts"] if part["kind"] == "site"]
        noise = {group: float(part["alone"]["noise"]) for part in sites for group in part["groups"]}
        return cls(_decibels(record["quantized"]), [parts for parts in kinds if parts.shown], noise)


def _parts(kind: str, records: Sequence[Mapping[str, Any]], whole: float) -> Parts:
    ranked = sorted(records, key=lambda part: -float(part["alone"]["noise"]))
    costs = [
        PartCost(
            str(part["name"]),
            min(float(part["alone"]["noise"]) / (whole or 1), 1.0),
            _decibels(part["alone"]),
            _decibels(part["left_float"]),
        )
        for part in ranked
    ]
    return Parts(TITLES[kind], costs[:SHOWN], max(0, len(costs) - SHOWN))


def _decibels(quality: Mapping[str, Any]) -> float | None:
    return None if quality["psnr"] is None else float(quality["psnr"])
