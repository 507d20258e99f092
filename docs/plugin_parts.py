"""The generated parts of `docs/plugins.md`: hooks, records and contracts, from their docstrings."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import Signature, cleandoc, getdoc, getsource, isfunction, signature
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

from pieces import sentences, table

from srptq_plugin.plugin_api import (
    Entry,
    Finding,
    Fusion,
    Host,
    Kernels,
    Linter,
    ModelFamily,
    Observer,
    ObserverFactory,
    Reconstruction,
    Request,
    Rules,
    Runtime,
    SRNetwork,
    Target,
    Toolkit,
)
from srptq_plugin.plugins import hookspecs
from srptq_plugin.plugins.registry import HOOKS, KINDS

EXAMPLE = Path(__file__).parents[1] / "examples" / "third_party_observer" / "mean_sigma.py"
CONTRACTS: Mapping[str, Sequence[type]] = {
    "srptq_observers": (ObserverFactory, Observer),
    "srptq_quantizers": (),
    "srptq_reconstructions": (Reconstruction,),
    "srptq_models": (ModelFamily, Request, SRNetwork),
    "srptq_targets": (Target, Rules, Fusion, Runtime, Kernels, Linter, Finding),
    "srptq_toolkits": (Toolkit, Host),
}
"""The contracts of each hook, in the order in which people need them."""
FENCE = "```"
HOOK = re.compile(r"(?P<about>.*)Example:\n(?P<code> *```python\n.*```)\n(?P<after>.*)", re.DOTALL)
"""The form of a hook's docstring: a description, an example, and its name in a recipe or command."""


def example() -> str:
    """Return the file of the example's observer as a block."""
    return f"{FENCE}python\n# {EXAMPLE.name}\n{EXAMPLE.read_text(encoding='utf-8')}{FENCE}"


def record() -> str:
    """Return a table of the fields that every record has."""
    return _members(Entry)


def hooks() -> str:
    """Return a section for each hook, with its records, an example, and the contracts."""
    return "\n\n".join(_hook(name, contracts) for name, contracts in CONTRACTS.items())


def _hook(name: str, contracts: Sequence[type]) -> str:
    kind = KINDS[HOOKS[name]]
    doc = HOOK.fullmatch(getdoc(getattr(hookspecs, name)) or "")
    if doc is None:
        raise ValueError(f"{name}: its docstring has no example")
    texts = [sentences(doc["about"]), dedent(doc["code"]), sentences(doc["after"])]
    own = [f"### `{kind.__name__}`, beyond what every record has\n\n{_members(kind)}"] if described_fields(kind) else []
    return "\n\n".join([f"## {HOOKS[name].capitalize()}s: `{name}`", *texts, *own, *map(_contract, contracts)])


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
    methods: dict[str, Callable[..., Any]] = {name: value for name, value in vars(kind).items() if isfunction(value)}
    for name in _defaults(kind):
        methods.pop(name, None)  # a field whose default is a function
    public = {name: method for name, method in methods.items() if name == "__call__" or not name.startswith("_")}
    docs = {_call(name, method): cleandoc(method.__doc__) for name, method in public.items() if method.__doc__}
    return {call: " ".join(sentences(doc).split()) for call, doc in docs.items()}


def _call(name: str, method: Callable[..., Any]) -> str:
    """Return a method's call, such as `write(network, table)`, without annotations and defaults."""
    _, *parameters = signature(method).parameters.values()
    plain = [parameter.replace(annotation=Signature.empty, default=Signature.empty) for parameter in parameters]
    return f"{name}{Signature(plain)}"
