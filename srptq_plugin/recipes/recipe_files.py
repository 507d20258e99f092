"""Recipe files: finding, reading and merging them with what they extend and with overrides."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from yaml.resolver import BaseResolver

from srptq_plugin.errors import LONGEST, SrptqError, UnknownNameError, short
from srptq_plugin.utils.field_types import is_writable, shown

HERE = Path(__file__).parents[1]
SET = "--set"
ARGUMENTS = "arguments"
SUFFIXES = (".yaml", ".yml")
Data = Mapping[str, Any]
KeyPath = Sequence[str | int]
OPTIONS = {"observer": "options", "quantizer": "quantizer_options"}
"""The key of the options of an observer and of a quantizer."""


@dataclass(frozen=True)
class RecipeLayer:
    """The content of one file or of one override."""

    source: str
    data: Data


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does, and None as null. Refuses aliases, odd keys and duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            _refuse("aliases are not read; write the value out", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as PyYAML calls it
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != BaseResolver.DEFAULT_SCALAR_TAG or not is_writable(key.value):
                _refuse("a key that is not a word; put it in quotes", key.start_mark)
            if key.value in seen:
                _refuse(f"the key {key.value!r} is here twice; keep one", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes YAML that `_Loader` reads: it quotes text that looks like 1e-3 or None, and makes no aliases."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - as PyYAML calls it
        return True


for _reads_or_writes in (_Loader, _Dumper):
    _reads_or_writes.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    _reads_or_writes.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("None$"), ["N"])


def _refuse(problem: str, mark: yaml.Mark) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def shipped(folder: Path | None = None) -> dict[str, Path]:
    """Return the paths of the recipes that come with the package, by name.

    >>> "openvino-w8a8" in shipped()
    True
    """
    bundled = HERE / "_recipes"
    folder = folder or (bundled if bundled.is_dir() else HERE.parent / "recipes")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def read_layers(name_or_path: str | Path) -> list[RecipeLayer]:
    """Read a recipe's file and all files that it extends. Returns the most general first."""
    layers: list[RecipeLayer] = []
    chain: list[Path] = []
    wanted: str | Path | None = name_or_path
    while wanted is not None:
        path = _find(wanted, chain[-1] if chain else None)
        if path in chain:
            names = " -> ".join(link.name for link in (*chain, path))
            raise SrptqError(f"{chain[-1]}: extends: a circle, {names}; remove one of them")
        data = {"name": path.stem, **_read(path)} if not chain else _without_name(_read(path, chain[-1]))
        wanted = _parent(data.pop("extends", None), path)
        chain.append(path)
        layers.insert(0, RecipeLayer(str(path), data))
    return layers


def _without_name(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "name"}


def _parent(extends: object, path: Path) -> str | None:
    if extends is None or (isinstance(extends, str) and extends):
        return extends
    raise SrptqError(f"{path}: extends: {shown(extends)} is not allowed; give a recipe's name or path")


def _find(wanted: str | Path, child: Path | None) -> Path:
    path = Path(wanted)
    if isinstance(wanted, str) and path.suffix not in SUFFIXES and path.name == wanted:
        return _shipped(wanted, child)
    name = f"{_by(child)}recipe {shown(str(wanted))}"
    if path.suffix not in SUFFIXES:
        raise SrptqError(f"{name}: not a .yaml file; choices: {', '.join(shipped())}")
    try:
        return (child.parent / path if child else path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that no file can have
        raise SrptqError(f"{name}: {error}; give the path of a .yaml file") from error


def _by(child: Path | None) -> str:
    return f"{child}: extends: " if child else ""


def _shipped(name: str, child: Path | None) -> Path:
    known = shipped()
    if name in known:
        return known[name].resolve()
    error = UnknownNameError("recipe", name, known)
    raise SrptqError(f"{_by(child)}{error}") if child else error


def _read(path: Path, child: Path | None = None) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        name = short(str(path), LONGEST)
        raise SrptqError(f"{_by(child)}recipe {name}: cannot be read ({reason}); give a .yaml file in UTF-8") from error
    data = parse(text, str(path))
    if not isinstance(data, dict):
        content = "nothing" if data is None else shown(data)
        raise SrptqError(f"{path}: {content} in it; a recipe is a mapping of keys such as 'target: openvino'")
    return cast("dict[str, Any]", data)


def parse(text: str, source: str) -> object:
    """Parse YAML text.

    >>> parse("[8, 1e-3, auto]", "--set")
    [8, 0.001, 'auto']
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SrptqError(f"{source}{line}: {error.problem or error.context}; check the YAML there") from error
    except Exception as error:  # PyYAML lets ValueError, KeyError, AttributeError and more through
        raise SrptqError(f"{source}: not YAML ({' '.join(str(error).split())}); check its syntax") from error


def dump(data: Data) -> str:
    """YAML text that `parse` turns into the same data.

    >>> print(dump({"name": "1e3", "bits": 8}), end="")
    name: '1e3'
    bits: 8
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_set(text: str) -> RecipeLayer:
    """Parse an override: a dotted key and a YAML value.

    >>> parse_set("activations.bits=4").data
    {'activations': {'bits': 4}}
    """
    keys, equals, value = text.partition("=")
    path = keys.strip().split(".")
    if not equals or not all(path) or not is_writable(keys):
        raise SrptqError(f"{SET} {shown(text)}: give key=value, such as activations.bits=4")
    data: Any = parse(value, f"{SET} {keys.strip()}")
    for key in reversed(path):
        data = {key: data}
    return RecipeLayer(SET, data)


def merge(layers: Sequence[RecipeLayer]) -> dict[str, Any]:
    """Merge all layers into one mapping. A later one overrides an earlier one.

    >>> merge([RecipeLayer("a", {"weights": {"bits": 8}}), RecipeLayer("b", {"weights": {"observer": "mse"}})])
    {'weights': {'bits': 8, 'observer': 'mse'}}
    """
    merged: Data = {}
    for layer in layers:
        merged = _merge(merged, layer.data)
    return dict(merged)


def _merge(under: Data, over: Data) -> Data:
    both = [key for key in over if isinstance(under.get(key), Mapping) and isinstance(over[key], Mapping)]
    return {**under, **over, **{key: _merge(_inherited(under[key], over[key]), over[key]) for key in both}}


def _inherited(under: Data, over: Data) -> Data:
    """Drop options that belong to another reconstruction, observer or quantizer."""
    if "name" in over and over["name"] != under.get("name"):
        return {}
    others = [key for key in OPTIONS if key in over and over[key] != under.get(key)]
    return {key: value for key, value in under.items() if key not in [OPTIONS[other] for other in others]}


def source(layers: Sequence[RecipeLayer], path: KeyPath) -> str:
    """Return where a key was set last. A key that is set nowhere belongs to the recipe's own file."""
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if _has(layer.data, path[:length]):
                return layer.source
    return next((layer.source for layer in reversed(layers) if layer.source not in (SET, ARGUMENTS)), "recipe")


def _has(data: object, path: KeyPath) -> bool:
    if not path:
        return True
    first, *rest = path
    if isinstance(data, Mapping):
        inner = cast("Data", data)
        return first in inner and _has(inner[str(first)], rest)
    if isinstance(data, list) and isinstance(first, int):
        items = cast("list[object]", data)
        return first < len(items) and _has(items[first], rest)
    return False
