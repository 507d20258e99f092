"""The generated parts of `docs/plugins.md`: examples, and hooks, records and contracts from their docstrings."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, cleandoc, getdoc, getsource, isfunction, signature
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

from pieces import sentences, table

from srptq_plugin.plugin_api import (
    Adaptable,
    Adopter,
    Checker,
    EmulatedRuntime,
    Entry,
    Finding,
    Fusion,
    Host,
    Inspectable,
    Inspection,
    Kernels,
    Linter,
    ModelFamily,
    Observer,
    ObserverFactory,
    PairLinter,
    Reconstruction,
    Request,
    Rules,
    Runtime,
    SRNetwork,
    StoredSite,
    Target,
    Toolkit,
    TrainableQuantizer,
)
from srptq_plugin.plugins import hookspecs
from srptq_plugin.plugins.registry import HOOKS, KINDS

ROOT = Path(__file__).parents[1]
EXAMPLES = (
    "examples/third_party_observer/mean_sigma.py",
    "examples/third_party_observer/pyproject.toml",
    "examples/plugins/stretched_quantizer.py",
    "examples/plugins/shrink_reconstruction.py",
    "examples/plugins/tiny_sr_family.py",
    "examples/third_party_target/tiny_npu.py",
    "examples/plugins/bare_toolkit.py",
)
"""The files that the document shows in full."""
CONTRACTS: Mapping[str, Sequence[type]] = {
    "srptq_observers": (ObserverFactory, Observer),
    "srptq_quantizers": (TrainableQuantizer,),
    "srptq_reconstructions": (Reconstruction,),
    "srptq_models": (ModelFamily, Request, SRNetwork),
    "srptq_targets": (
        *(Target, Rules, Fusion, Adaptable, Checker, Runtime, Kernels, EmulatedRuntime, Inspectable, Inspection),
        *(StoredSite, Linter, PairLinter, Finding),
    ),
    "srptq_toolkits": (Toolkit, Adopter, Host),
}
"""The contracts of each hook, in the order in which people need them."""
FENCE = "```"
SECTION = re.compile(r"\n\n(Args|Returns|Raises):\n((?: {4}.*(?:\n|\Z))+)")
"""A section of a docstring in google style: its title and its indented lines."""
ITEM = re.compile(r"^ {4}(\S+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def example(path: str) -> str:
    """Return a file as a block that begins with the file's name."""
    file = ROOT / path
    language = {".py": "python", ".toml": "toml"}[file.suffix]
    return f"{FENCE}{language}\n# {file.name}\n{file.read_text(encoding='utf-8')}{FENCE}"


def record() -> str:
    """Return a table of the fields that every record has."""
    return _members(Entry)


def hook(name: str) -> str:
    """Return the description of a hook, the fields that only its record has, and its contracts."""
    kind = KINDS[HOOKS[name]]
    own = [f"### `{kind.__name__}`, besides the common fields\n\n{_members(kind)}"] if described_fields(kind) else []
    about = sentences(getdoc(getattr(hookspecs, name)) or "")
    return "\n\n".join([f"Hook: `{name}`. {about}", *own, *map(_contract, CONTRACTS[name])])


def _contract(kind: type) -> str:
    members = _members(kind)
    title = kind.__name__ if members else f"{kind.__name__}({', '.join(signature(kind).parameters)})"
    return "\n\n".join(filter(None, [f"### `{title}`", sentences(getdoc(kind) or ""), members]))


def _members(kind: type) -> str:
    """Return a table of a class's fields and methods, with defaults for a record."""
    members, defaults = {**described_fields(kind), **_methods(kind)}, _defaults(kind)
    columns = ["name", "meaning", *(["default"] if defaults else [])]
    rows = [[f"`{name}`", about, *([defaults.get(name, "")] if defaults else [])] for name, about in members.items()]
    return table(columns, rows) if rows else ""


def _defaults(kind: type) -> dict[str, str]:
    known = fields(kind) if is_dataclass(kind) else ()
    return {field.name: _words(field.default) for field in known if field.default is not MISSING}


def _words(value: object) -> str:
    if isinstance(value, frozenset | tuple):
        items = cast("Iterable[object]", value)
        ordered = sorted(items, key=str) if isinstance(value, frozenset) else items
        return ", ".join(map(_words, ordered)) or "none"
    words = {True: "yes", False: "no", None: "none"}
    return words[value] if isinstance(value, bool | None) else f"`{getattr(value, '__name__', value)}`"


def described_fields(kind: type) -> dict[str, str]:
    """Return the sentences under each field of a class, by field name."""
    (node,) = ast.parse(dedent(getsource(kind))).body
    body = node.body if isinstance(node, ast.ClassDef) else []
    return {
        field.target.id: " ".join(cleandoc(text).split())
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(text := below.value.value, str)
    }


def _methods(kind: type) -> dict[str, str]:
    """Return the meaning of each public method of a class by its call. For a contract, include its properties."""
    defaults = _defaults(kind)  # a default may be a function, and is no method
    docs: dict[str, str | None] = {}
    for name, member in vars(kind).items():
        if name in defaults or (name.startswith("_") and name != "__call__"):
            continue
        function = member.__func__ if isinstance(member, classmethod) else member
        if isfunction(function):
            docs[_call(name, function)] = function.__doc__
        elif isinstance(member, property) and not is_dataclass(kind):
            docs[name] = member.__doc__
    return {call: _meaning(cleandoc(doc)) for call, doc in docs.items() if doc}


def _meaning(doc: str) -> str:
    """Return a docstring as the text of one cell: sentences, then a line for each argument and error."""
    items = [
        (f"Raises `{name}`" if title == "Raises" else f"`{name}`", " ".join(text.split()))
        for title, body in SECTION.findall(doc)
        for name, text in ITEM.findall(body)
    ]
    text = " ".join(sentences(SECTION.sub("\n", doc)).split())
    return "<br>".join([text, *(f"{name}: {about}" for name, about in items)])


def _call(name: str, method: Callable[..., Any]) -> str:
    """Return a method's call, such as `write(network, table)`, without annotations and defaults.

    `*args` is left out: it is in contracts for type checkers only.
    """
    _, *parameters = signature(method).parameters.values()
    plain = [parameter.replace(annotation=Signature.empty, default=Signature.empty) for parameter in parameters]
    return f"{name}{Signature([parameter for parameter in plain if parameter.kind is not Parameter.VAR_POSITIONAL])}"
