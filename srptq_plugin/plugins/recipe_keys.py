"""The keys of a recipe as documents and the screen show them: values, default, sentence."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import getdoc
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import MODELS, Recipe
from srptq_plugin.utils.field_types import Allowed
from srptq_plugin.utils.options import Options

PLACES: Mapping[str | int, str] = {"stages": "stages.STAGE", "overrides": "overrides[]"}
"""How the keys of a section are written, where not by its name."""
LOOK_UPS = {
    "target": "target",
    "toolkit": "toolkit",
    "observer": "observer",
    "quantizer": "quantizer",
    "reconstruction.name": "reconstruction",
}
"""The keys whose values plugins register, and as which kind."""
PLAIN = {int: "a whole number", float: "a number", NoneType: "`null`"}
NEEDED = "needed"
PREFIXES = {
    "observer": "activations.options",
    "quantizer": "activations.quantizer_options",
    "reconstruction": "reconstruction",
    "target": "export",
}
"""Under which key of a recipe the options of a kind of plugin stand."""


@dataclass(frozen=True)
class Key:
    """One key. Code in its texts is in backticks."""

    name: str
    values: str
    default: str
    about: str


@dataclass(frozen=True)
class Section:
    """The keys of one section. The name of the top level is empty."""

    name: str
    about: str
    keys: tuple[Key, ...]


def sections(registry: Registry) -> list[Section]:
    """List all keys by section, then the options of every plugin that has any.

    >>> [section.name for section in sections(Registry())][:4]
    ['', 'weights', 'activations', 'stages']
    """
    models = {"": Recipe, **{str(name): model for name, model in MODELS.items()}}
    fixed = [_section(name, PLACES.get(name, name), model, registry) for name, model in models.items()]
    return [*fixed, *_options(registry)]


def _options(registry: Registry) -> Iterator[Section]:
    for kind, prefix in PREFIXES.items():
        for entry in registry.entries(kind):
            if entry.options.model_fields:
                yield _section(f"{prefix} ({entry.name})", prefix, entry.options, registry)


def _section(name: str, prefix: str, model: type[Options], registry: Registry) -> Section:
    fields = {f"{prefix}.{key}".removeprefix("."): field for key, field in model.model_fields.items()}
    shown = {key: field for key, field in fields.items() if key not in MODELS}
    return Section(name, getdoc(model) or "", tuple(_key(key, field, registry) for key, field in shown.items()))


def _key(name: str, field: FieldInfo, registry: Registry) -> Key:
    kind = next((kind for end, kind in LOOK_UPS.items() if f".{name}".endswith(f".{end}")), None)
    names = [entry.name for entry in registry.entries(kind)] if kind else None
    values = _or(map(_code, names)) if names else _or(words_of(field.annotation, field.metadata))
    return Key(name, values, _default(field), str(field.description))


def words_of(kind: Any, metadata: Iterable[object] = ()) -> Iterator[str]:
    """Yield the words for what a type allows, as error messages have them.

    >>> list(words_of(Literal["paper", "auto"] | float | None))
    ['`paper`', '`auto`', 'a number', '`null`']
    """
    checks = [validator.func for validator in metadata if isinstance(validator, BeforeValidator)]
    if words := [check.words for check in checks if isinstance(check, Allowed)]:
        yield words[0].partition(",")[0]
    elif hasattr(kind, "__metadata__"):
        yield from words_of(kind.__origin__, kind.__metadata__)
    elif get_origin(kind) in (Union, UnionType):
        yield from (word for member in get_args(kind) for word in words_of(member))
    elif get_origin(kind) is Literal:
        yield from map(_code, get_args(kind))
    else:
        yield PLAIN.get(kind, "a mapping")


def _default(field: FieldInfo) -> str:
    return NEEDED if field.is_required() else _code(_written(field.get_default(call_default_factory=True)))


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _code(text: object) -> str:
    return f"`{text}`"


def _or(words: Iterable[str]) -> str:
    *others, last = words
    comma = "," if any(" or " in word for word in others) else ""
    return f"{', '.join(others)}{comma} or {last}" if others else last
