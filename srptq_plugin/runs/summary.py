"""The contents of `summary.json` before a run is verified."""

import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.planning.grid_cost import GridCost
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.quantization.grid import Bounds
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run_record import SCHEMA

Record = Mapping[str, Any]
PACKAGES = ("srptq-plugin", "torch", "numpy", "onnx")


def summarize(
    recipe: Recipe,
    record: ModelRecord,
    size: Size | None,
    table: QuantTable,
    groups: Mapping[str, Record] | None = None,
) -> dict[str, Any]:
    """Return the recipe, the network, all sites and the operations that stay float.

    Args:
        recipe: The recipe of the run.
        record: The record of the network.
        size: The only input size of the exported file, if there is one.
        table: The quant table.
        groups: Records from `of_group` by the name of the group.
    """
    return {
        "schema": SCHEMA,
        "toolkit": recipe.toolkit,
        "target": recipe.target,
        "recipe": recipe.model_dump(mode="json"),
        "model": _model_record(record, size),
        "sites": _site_records(table, groups or {}),
        "floats": dict(table.plan.floats),
        "convs": len(table.plan.convs),
    }


def of_group(cost: GridCost | None = None, observed: Bounds | None = None, tuned: Bounds | None = None) -> Record:
    """Return the record of sites that share one encoding: the cost of its grid, and the outermost bounds before it.

    >>> of_group(observed=Bounds.of(-3, 2))
    {'projection': None, 'observed': [-3.0, 2.0], 'tuned': None}

    Args:
        cost: The cost of the target's grid, or None if the sites were not observed.
        observed: The bounds that the observer found.
        tuned: The bounds after tuning.
    """
    ends = {name: bounds and list(bounds.outermost) for name, bounds in (("observed", observed), ("tuned", tuned))}
    return {"projection": _decibels(cost), **ends}


def collect_versions(bound: BoundRecipe) -> dict[str, str]:
    """Return the versions of Python, of required packages, of toolkits and of installed plugins, by name."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    for entry in bound.registry.entries("toolkit"):
        with suppress(PackageNotFoundError):
            versions[entry.name] = version(entry.name)
    # The toolkit of this run reports its version itself, as it may be patched or no distribution at all.
    versions[bound.recipe.toolkit] = bound.toolkit.version
    return versions | {
        plugin.distribution: plugin.version for plugin in bound.registry.plugins() if plugin.distribution
    }


def runtime_version(runtime: str | None) -> dict[str, str]:
    """Return the package and the version in the name of a runtime, or nothing if it has none.

    >>> runtime_version("openvino 2026.4.1"), runtime_version("onnxruntime 1.31.1, reading tables")
    ({'openvino': '2026.4.1'}, {'onnxruntime': '1.31.1'})
    >>> runtime_version("tiny-npu emulator"), runtime_version(None)
    ({}, {})
    """
    match = re.match(r"(.+) (\d[^\s,]*)", runtime or "")
    return {match[1]: match[2]} if match else {}


def _model_record(record: ModelRecord, size: Size | None) -> dict[str, Any]:
    return {
        "name": record.name,
        "parameters": record.parameters,
        "scale": record.scale,
        "input_range": list(record.input_range),
        "mean": list(record.mean) if record.mean else None,
        "input_size": list(size) if size else None,
        "multiple": record.multiple,
        "channels": record.channels,
    }


def _site_records(table: QuantTable, groups: Mapping[str, Record]) -> list[dict[str, Any]]:
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
            **(groups.get(site.group) or of_group()),
        }
        # One number per channel, or a list of one number per tensor.
        records.append(fields | {key: np.atleast_1d(value.numpy()).tolist() for key, value in numbers.items()})
    return records


def _decibels(cost: GridCost | None) -> dict[str, float] | None:
    if cost is None:
        return None
    return {"cost_db": round(cost.cost, 3), "won_db": round(cost.won, 3), "tuned_db": round(cost.tuned, 3)}
