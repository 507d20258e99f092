"""The commands that list recipes, targets and plugins."""

from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from srptq_plugin.cli.console import Cell, Facts, Lines, Mark, Table
from srptq_plugin.cli.result import Answer
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.rules import Rules
from srptq_plugin.plugins.entries import Entry
from srptq_plugin.plugins.hosts import installed_hosts
from srptq_plugin.plugins.protocols import Change, Target
from srptq_plugin.plugins.recipe_keys import sections
from srptq_plugin.plugins.registry import KINDS, PluginInfo, Registry
from srptq_plugin.quantization.grid import IntGrid
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import shipped
from srptq_plugin.utils.progress import Progress

Record = dict[str, Any]
MOST_OPTIONS = 4
"""Options that a line of `srptq plugins` names."""
OF_GRIDS = ("weights", "activations", "weight_bits", "activation_bits", "integer_bits", "placements")
WISHES = tuple(field.name for field in fields(Rules) if field.name not in OF_GRIDS)
"""The other rules of a target: where it needs quantizers, and which operations it fuses."""


def recipes(args: Namespace, _progress: Progress) -> Answer:
    """List the recipes that come with the package, print one in full, or list the keys that a recipe may have."""
    if args.keys:
        return _keys()
    if args.name is not None:
        return _one_recipe(args.name)
    registry = Registry()
    records = [_recipe(path, registry) for path in shipped().values()]
    columns = ["recipe", "target", "bits", "placement", "tuned by", "purpose"]
    return Answer({"recipes": records}, [Table(columns, [_recipe_row(record) for record in records], wordy=1)])


def targets(_args: Namespace, _progress: Progress) -> Answer:
    """List the presets of all targets."""
    records = [record for entry in Registry().entries("target") for record in _presets(entry)]
    columns = ["target, preset", "in integers", "placements", "weights", "activations", "export options"]
    return Answer({"targets": records}, [Table(columns, [_target_row(record) for record in records], wordy=3)])


def plugins(_args: Namespace, _progress: Progress) -> Answer:
    """List the plugins with the entries that they register, or with the reason why they failed."""
    registry = Registry()
    entries = {kind: {entry.name: entry for entry in registry.entries(kind)} for kind in KINDS}
    hosts = {name: host.changes(registry) for name, host in installed_hosts(registry)}
    report = [block for info in registry.plugins() for block in _plugin(info, entries)]
    report += [block for name, changes in hosts.items() for block in _host(name, changes)]
    activate = {name: list(map(asdict, changes)) for name, changes in hosts.items()}
    options = {
        kind: {name: list(entry.options.model_fields) for name, entry in own.items()} for kind, own in entries.items()
    }
    infos = [asdict(info) for info in registry.plugins()]
    return Answer({"plugins": infos, "options": options, "activate": activate}, report)


def _one_recipe(name: str) -> Answer:
    recipe = Recipe.load(name)
    return Answer(recipe.model_dump(mode="json"), [Lines(recipe.to_yaml().splitlines())])


def _keys() -> Answer:
    keys = [asdict(key) for section in sections(Registry()) for key in section.keys]
    rows = [[text.replace("`", "") for text in key.values()] for key in keys]
    return Answer({"keys": keys}, [Table(["key", "values", "default", "meaning"], rows, wordy=1)])


def _recipe_row(record: Record) -> list[str]:
    bits = f"w{record['weights']}a{record['activations']}"
    steps = record["placement"] or "", record["reconstruction"] or "nothing"
    return [record["name"], record["target"], bits, *steps, record["comment"]]


def _recipe(path: Path, registry: Registry) -> Record:
    recipe = Recipe.load(path)
    return {
        "name": recipe.name,
        "target": recipe.target,
        "toolkit": recipe.toolkit,
        "weights": recipe.weights.bits,
        "activations": recipe.activations.bits,
        "placement": _placement(recipe, registry),
        "reconstruction": recipe.reconstruction.name if recipe.reconstruction else None,
        "comment": _comment(path),
    }


def _placement(recipe: Recipe, registry: Registry) -> str | None:
    """Return the placement that the recipe leads to, or the one it names if its target cannot be loaded."""
    try:
        presets = registry.target(recipe.target).load().presets
        return presets[recipe.preset or next(iter(presets))].placement(recipe.placement)
    except (SrptqError, KeyError):
        return recipe.placement


def _comment(path: Path) -> str:
    """Return the comment at the top of a recipe file."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def _target_row(record: Record) -> list[Cell]:
    if "problem" in record:
        return [record["target"], "", "", "", "", Mark(record["problem"], good=False)]
    integers = _ranges(frozenset(record["integer_bits"]))
    options = ", ".join(f"{key}={default}" for key, default in record["exports"].items())
    name = f"{record['target']} {record['preset']}"
    runs = [f"{integers} bits" if integers else "none", ", ".join(record["placements"])]
    return [name, *runs, record["weights"], record["activations"], options]


def _presets(entry: Entry[Target]) -> Iterator[Record]:
    target_record: Record = {"target": entry.name, "aliases": list(entry.aliases), "summary": entry.summary}
    try:
        target = entry.load()
    except (SrptqError, ImportError) as error:
        yield target_record | {"problem": str(error)}
        return
    target_record["exports"] = {key: field.get_default() for key, field in entry.options.model_fields.items()}
    for number, (name, rules) in enumerate(target.presets.items()):
        yield target_record | {"preset": name, "default": number == 0} | _rules(rules)


def _rules(rules: Rules) -> Record:
    return {
        "weights": _grid(rules.weights, rules.weight_bits),
        "activations": _grid(rules.activations, rules.activation_bits),
        "weight_grid": asdict(rules.weights),
        "activation_grid": asdict(rules.activations),
        "weight_bits": sorted(rules.weight_bits),
        "activation_bits": sorted(rules.activation_bits),
        "integer_bits": sorted(rules.integer_bits),
        "placements": list(rules.placements),
        **{name: _listed(getattr(rules, name)) for name in WISHES},
    }


def _listed(value: object) -> object:
    if isinstance(value, IntGrid):
        return _grid(value, frozenset({value.bits}))
    return sorted(map(str, cast("Collection[object]", value))) if isinstance(value, frozenset | tuple) else value


def _grid(grid: IntGrid, bits: frozenset[int]) -> str:
    """Describe a grid in words.

    >>> _grid(IntGrid(8, signed=True, symmetric=True, channel_axis=0), frozenset({4, 5, 6, 8}))
    '4-6, 8 bits, signed, symmetric, per channel'
    """
    words = {
        "signed" if grid.signed else "unsigned": not grid.float_zero_point,
        "symmetric" if grid.symmetric else "asymmetric": not grid.float_zero_point,
        "real offset": grid.float_zero_point,
        "power-of-two scale": grid.power_of_two,
        "per channel": grid.channel_axis is not None,
    }
    return ", ".join([f"{_ranges(bits)} bits", *(word for word, holds in words.items() if holds)])


def _ranges(numbers: frozenset[int]) -> str:
    # a run starts at a number without predecessor and ends at one without successor
    starts = [number for number in sorted(numbers) if number - 1 not in numbers]
    ends = [number for number in sorted(numbers) if number + 1 not in numbers]
    pairs = zip(starts, ends, strict=True)
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in pairs)


def _host(name: str, changes: Sequence[Change]) -> Iterator[Facts | Table]:
    yield Facts([("toolkit", f'{name}: what srptq_plugin.activate("{name}") does')])
    yield Table(["entry or repair", "meaning", "left out"], [list(asdict(change).values()) for change in changes])


def _plugin(info: PluginInfo, entries: Mapping[str, Mapping[str, Entry[Any]]]) -> Iterator[Facts | Table]:
    source = f"{info.name} ({info.distribution} {info.version})" if info.distribution else info.name
    yield Facts([("plugin", Mark(f"{source}: {info.failed}", good=False) if info.failed else source)])
    registered = [(kind, entries[kind][name]) for kind, names in info.registers.items() for name in names]
    rows = [[kind, entry.name, entry.summary, _options(entry)] for kind, entry in registered]
    if rows:
        yield Table(["kind", "name", "meaning", "options"], rows, wordy=2)


def _options(entry: Entry[Any]) -> str:
    """Name the options of an entry. Of many, name the first."""
    names = list(entry.options.model_fields)
    more = len(names) - MOST_OPTIONS
    return ", ".join(names[:MOST_OPTIONS]) + (f" and {more} more" if more > 0 else "")
