"""What `summary.json` says of a run before it is verified."""

import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.types import Size
from srptq_plugin.models import ModelRecord
from srptq_plugin.planning.grid_cost import GridCost
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run_record import SCHEMA

Record = Mapping[str, Any]
PACKAGES = ("srptq-plugin", "torch", "numpy", "onnx")


def summary_of(
    recipe: Recipe,
    record: ModelRecord,
    size: Size | None,
    table: QuantTable,
    found: Mapping[str, Record] | None = None,
) -> dict[str, Any]:
    """Recipe, network, every site, and what stays float; `found` is by group what `of_group` gives."""
    return {
        "schema": SCHEMA,
        "toolkit": recipe.toolkit,
        "target": recipe.target,
        "recipe": recipe.model_dump(mode="json"),
        "model": _model_record(record, size),
        "sites": _site_records(table, found or {}),
        "floats": dict(table.plan.floats),
        "convs": len(table.plan.convs),
    }


def _model_record(record: ModelRecord, size: Size | None) -> dict[str, Any]:
    return {
        "name": record.name,
        "parameters": record.parameters,
        "scale": record.scale,
        "input_range": list(record.input_range),
        "mean": list(record.mean) if record.mean else None,
        "input_size": list(size) if size else None,
        "multiple": record.multiple,
    }


def _site_records(table: QuantTable, found: Mapping[str, Record]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for site in table.plan.sites:
        qparams = table.qparams[site.name]
        numbers = {"scale": qparams.scale, "zero_point": qparams.zero_point}
        numbers |= {"lower": qparams.bounds.lower, "upper": qparams.bounds.upper}
        fields = {
            "name": site.name,
            "role": site.role,
            "stage": site.stage,
            "bits": site.grid.bits,
            "group": site.group,
            "dynamic": site.group in table.states,
            **(found.get(site.group) or of_group()),
        }
        records.append(fields | {key: np.atleast_1d(value.numpy()).tolist() for key, value in numbers.items()})
    return records


def of_group(projection: GridCost | None = None, observed: Bounds | None = None, tuned: Bounds | None = None) -> Record:
    """Of sites of one encoding: what the grid costs, and the bounds before it, the outermost of all channels.

    >>> of_group(observed=Bounds.of(-3, 2))
    {'projection': None, 'observed': [-3.0, 2.0], 'tuned': None}
    """
    ends = {name: bounds and list(bounds.outermost) for name, bounds in (("observed", observed), ("tuned", tuned))}
    return {"projection": _projection_record(projection), **ends}


def _projection_record(found: GridCost | None) -> dict[str, float] | None:
    """Decibels; none for a site that was not observed."""
    if found is None:
        return None
    return {"cost_db": round(found.cost, 3), "won_db": round(found.won, 3), "tuned_db": round(found.tuned, 3)}


def versions_of(bound: BoundRecipe) -> dict[str, str]:
    """Return the versions of Python, of what every run uses, of installed toolkits, its own, and installed plugins."""
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    for entry in bound.registry.entries("toolkit"):
        with suppress(PackageNotFoundError):
            found[entry.name] = version(entry.name)
    found[bound.recipe.toolkit] = bound.toolkit.version
    return found | {each.distribution: each.version for each in bound.registry.plugins() if each.distribution}


def runtime_version(runtime: str | None) -> dict[str, str]:
    """Return the version that a runtime's name holds.

    >>> runtime_version("openvino 2026.4.1"), runtime_version("onnxruntime 1.31.1, reading tables")
    ({'openvino': '2026.4.1'}, {'onnxruntime': '1.31.1'})
    >>> runtime_version("tiny-npu emulator"), runtime_version(None)
    ({}, {})
    """
    found = re.match(r"(.+) (\d[^\s,]*)", runtime or "")
    return {found[1]: found[2]} if found else {}
