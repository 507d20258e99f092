"""Fills in what documents say from code: whatever stands between `<!-- generated: NAME -->` and `<!-- end -->`.

python docs/generate.py
"""

import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, getdoc, signature
from itertools import groupby
from pathlib import Path
from typing import Any

import plugin_parts
from pieces import sentences, table

from srptq_plugin.cli import catalog
from srptq_plugin.cli.parser import COMMANDS
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.keys import Section, sections, words_of
from srptq_plugin.utils.progress import quiet

FOLDER = Path(__file__).parent
MARKED = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
GRIDS = {
    "weights": "Weights",
    "activations": "Activations",
    "integer_bits": "Bits that are computed in integers",
    "placements": "Placements, the default first",
}
WISHES = {
    "inputs": "Under `full` quantized in front of",
    "outputs": "Under `full` quantized behind",
    "nonnegative_activations": "Activations that are never negative",
    "fusions": "Computed in the kernel of an operation before it, so not quantized between them",
    "shared_scales": "Inputs and output have one scale",
    "integer_bias": "Biases are 32-bit integers",
    "one_grid_per_tensor": "All readers of a tensor read the same integers",
    "per_channel": "A weight may have a scale for each channel",
    "pair_sum_bits": "Without VNNI two products are added in integers of so many bits, which weights must not overflow",
    "sign_bit": "A recipe's bits are those of the magnitude; a sign has one more",
}
"""The words for what a target's rules say."""
OF_THE_PIPELINE = ("grid", "tensors_per_batch")


def recipes() -> str:
    """The recipes that come with the package."""
    found = catalog.recipes(Namespace(name=None, keys=False), quiet).data["recipes"]
    rows = [
        [f"`{each['name']}`", each["placement"], each["reconstruction"] or "nothing", each["comment"]] for each in found
    ]
    return table(["recipe", "placement", "tuned by", "what it is"], rows)


def keys() -> str:
    """Every key of a recipe, a table a section."""
    return "\n\n".join(map(_section, sections(Registry())))


def _section(section: Section) -> str:
    title = f"### `{section.name}`" if section.name else "### At the top"
    about = [sentences(section.about)] if section.name else []
    rows = [[f"`{key.name}`", key.values, key.default, key.about] for key in section.keys]
    return "\n\n".join([title, *about, table(["key", "values", "default", "what it is"], rows)])


def targets() -> str:
    """A table a target: what each preset allows, and where it wants quantizers."""
    found = catalog.targets(Namespace(), quiet).data["targets"]
    return "\n\n".join(_target(name, list(presets)) for name, presets in groupby(found, lambda each: each["target"]))


def _target(name: str, presets: Sequence[Mapping[str, Any]]) -> str:
    first = presets[0]
    aliases = f"; also `{'`, `'.join(first['aliases'])}`" if first["aliases"] else ""
    about = sentences(getdoc(type(Registry().target(name).load())) or "")
    columns = ["preset", *(f"`{each['preset']}`" for each in presets)]
    rows = [[words, *(_cell(each[key]) for each in presets)] for key, words in {**GRIDS, **WISHES}.items()]
    exports = [f"* `export.{key}`: {_cell(values)}, the default first." for key, values in first["exports"].items()]
    said = [row for row in rows if any(row[1:])]
    return "\n\n".join([f"## `{name}`: {first['summary']}{aliases}", about, table(columns, said), *exports])


def _cell(value: object) -> str:
    if isinstance(value, list):
        found: list[object] = value
        return ", ".join(str(each) if type(each) is int else _code(each) for each in found)
    words = {True: "yes", False: "", None: ""}
    return words[value] if isinstance(value, bool | None) else str(value).removesuffix(", per channel")


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def observers() -> str:
    """A part an observer: what it does, and its options."""
    return "\n\n".join(_observer(entry.name, entry.load()) for entry in Registry().entries("observer"))


def _observer(name: str, kind: type[object]) -> str:
    options = {key: each for key, each in signature(kind).parameters.items() if key not in OF_THE_PIPELINE}
    owner = next(each for each in kind.__mro__ if "__init__" in vars(each))
    docs = [sys.modules[kind.__module__].__doc__, getdoc(kind), *([getdoc(owner)] if options else [])]
    about = [sentences(each) for each in dict.fromkeys(docs) if each]
    rows = [[f"`{key}`", _values(each), _code(each.default)] for key, each in options.items()]
    listed = [table(["option", "values", "default"], rows)] if rows else ["It has no options."]
    return "\n\n".join([f"## `{name}`", *about, *listed])


def commands() -> str:
    """What `srptq` does, a row a command."""
    return table(["command", "what it does"], [[f"`srptq {name}`", text] for name, text, _ in COMMANDS])


def _values(option: Parameter) -> str:
    return ", ".join(words_of(option.annotation))


BLOCKS: Mapping[str, Callable[[], str]] = {
    "recipes": recipes,
    "keys": keys,
    "targets": targets,
    "observers": observers,
    "commands": commands,
    "hooks": plugin_parts.hooks,
    "record": plugin_parts.record,
    "example": plugin_parts.example,
}


def filled(text: str) -> str:
    """A document with its generated parts as they are now."""
    return MARKED.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n\n{found[3]}", text)


def main() -> None:
    """Write every document of this folder anew."""
    for page in sorted(FOLDER.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
