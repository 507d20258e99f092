"""Fill in the generated parts of documents, between `<!-- generated: NAME -->` and `<!-- end -->`, from code.

python docs/generate.py
"""

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import getdoc
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import plugin_parts
from pieces import sentences, table

from srptq_plugin.cli import catalog
from srptq_plugin.cli.command import COMMANDS
from srptq_plugin.plugins.entries import ObserverEntry
from srptq_plugin.plugins.recipe_keys import Section, sections, words_of
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.utils.options import Options
from srptq_plugin.utils.progress import quiet

FOLDER = Path(__file__).parent
MARKED = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
GRIDS = {
    "weights": "Weights",
    "activations": "Activations",
    "integer_bits": "Bits computed in integers",
    "placements": "Placements, the default first",
}
WISHES = {
    "inputs": "Under `full` quantized in front of",
    "symmetric_inputs": "Read integers with zero point 0 only",
    "float_inputs": "Read floats",
    "transposed_stride": "The largest stride of a transposed convolution in integers",
    "outputs": "Under `full` quantized behind",
    "outputs_as_skips": "Outputs of convolutions have the bits of skips, unless a convolution or concat reads them",
    "nonnegative_activations": "Activations that are never negative",
    "fusions": "Computed in the kernel of an operation before it, so not quantized between them",
    "shared_scales": "Inputs and output have one scale",
    "integer_bias": "Biases are 32-bit integers",
    "one_grid_per_tensor": "All readers of a tensor read the same integers",
    "every_tensor": "Every tensor has an encoding",
    "stored_once": "Other readers of integers convert them as they read",
    "float_long_skip": "The sum behind the body adds the head's output as floats",
    "relu_by_range": "Computes a ReLU by the range of the integers behind it",
    "per_channel": "A weight may have a scale for each channel",
    "pair_sum_bits": "Without VNNI two products are added in integers of so many bits, which weights must not overflow",
    "sum_multiplier_bits": "Sums are computed by integers of one bit more, and shifted, which `verify` simulates",
    "float_bits": "Several operations in floats are exact to so many bits",
    "wide_bounds": "In 16 bits their results have fixed bounds",
    "htp_rounding": "Convolutions and sums of 8 bits round as in Qualcomm's HTP, which `verify` simulates",
    "leaky_multiplier_bits": "A leaky ReLU is computed by multipliers of so many bits behind the point, likewise",
    "sign_bit": "A recipe's bits count the magnitude; a sign has one more",
}
"""Row titles for the fields of a target's rules."""


def recipes() -> str:
    """Return a table of the recipes in the package."""
    entries = catalog.recipes(Namespace(name=None, keys=False), quiet).data["recipes"]
    rows = [
        [f"`{entry['name']}`", entry["placement"], entry["reconstruction"] or "nothing", entry["comment"]]
        for entry in entries
    ]
    return table(["recipe", "placement", "tuned by", "purpose"], rows)


def keys() -> str:
    """Return every key of a recipe, with a table for each section."""
    return "\n\n".join(map(_section, sections(Registry())))


def _section(section: Section) -> str:
    name, _, plugin = section.name.partition(" ")
    title = f"### `{name}` {plugin}".rstrip() if name else "### At the top"
    about = [sentences(section.about)] if section.name else []
    rows = [[f"`{key.name}`", key.values, key.default, key.about] for key in section.keys]
    return "\n\n".join([title, *about, table(["key", "values", "default", "meaning"], rows)])


def targets() -> str:
    """Return a table for each target, with the grids and quantizer placement of each preset."""
    presets = catalog.targets(Namespace(), quiet).data["targets"]
    return "\n\n".join(_target(name, list(own)) for name, own in groupby(presets, itemgetter("target")))


def _target(name: str, presets: Sequence[Mapping[str, Any]]) -> str:
    first = presets[0]
    aliases = f" (also `{'`, `'.join(first['aliases'])}`)" if first["aliases"] else ""
    about = sentences(getdoc(type(Registry().target(name).load())) or "")
    columns = ["preset", *(f"`{preset['preset']}`" for preset in presets)]
    rows = [[title, *(_cell(preset[key]) for preset in presets)] for key, title in {**GRIDS, **WISHES}.items()]
    options = _option_table(Registry().target(name).options, "export.")
    filled_rows = [row for row in rows if any(row[1:])]
    return "\n\n".join([f"## `{name}`: {first['summary']}{aliases}", about, table(columns, filled_rows), *options])


def _cell(value: object) -> str:
    if isinstance(value, list):
        items: list[object] = value
        return ", ".join(str(item) if type(item) is int else _code(item) for item in items)
    words = {True: "yes", False: "", None: ""}
    return words[value] if isinstance(value, bool | None) else str(value).removesuffix(", per channel")


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def observers() -> str:
    """Return a section for each observer, with its description and its options."""
    return "\n\n".join(_observer(entry) for entry in Registry().entries("observer") if isinstance(entry, ObserverEntry))


def _observer(entry: ObserverEntry) -> str:
    kind: Any = entry.load()
    about = [sentences(doc) for doc in (sys.modules[kind.__module__].__doc__, getdoc(kind)) if doc]
    options = _option_table(entry.options) or ["It has no options."]
    return "\n\n".join([f"## `{entry.name}`", *about, *options])


def _option_table(model: type[Options], prefix: str = "") -> list[str]:
    """Return a table of the options in a record, or nothing if it has none."""
    rows = [
        [
            f"`{prefix}{name}`",
            ", ".join(words_of(field.annotation, field.metadata)),
            _code(field.get_default()),
            str(field.description),
        ]
        for name, field in model.model_fields.items()
    ]
    return [table(["option", "values", "default", "meaning"], rows)] if rows else []


def commands() -> str:
    """Return a table of the commands of `srptq`."""
    return table(["command", "what it does"], [[f"`srptq {command.name}`", command.summary] for command in COMMANDS])


BLOCKS: Mapping[str, Callable[[], str]] = {
    "recipes": recipes,
    "keys": keys,
    "targets": targets,
    "observers": observers,
    "commands": commands,
    "record": plugin_parts.record,
    **{path: partial(plugin_parts.example, path) for path in plugin_parts.EXAMPLES},
    **{name: partial(plugin_parts.hook, name) for name in plugin_parts.CONTRACTS},
}


def filled(text: str) -> str:
    """Return a document with its generated parts up to date."""
    return MARKED.sub(lambda part: f"{part[1]}\n{BLOCKS[part[2]]()}\n\n{part[3]}", text)


def main() -> None:
    """Update every document of this folder and of the folders in it."""
    for page in sorted(FOLDER.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
