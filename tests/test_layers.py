"""The core imports no adapter, toolkit or runtime, and toolkits and targets never import each other."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ADAPTERS = ROOT / "adapters" / "srptq_adapters"
TOOLKITS = ("mqbench", "torchao")
RUNTIMES = ("openvino", "onnxruntime", "ncnn", "executorch", "ai_edge_litert", "nncf", "tensorrt", "aimet_onnx")
ORDER = (
    *(
        "errors",
        "utils",
        "quantization",
        "graph",
        "data",
        "observers",
        "recipes",
        "planning",
        "reconstruction",
        "deploy",
        "plugins",
        "models",
    ),
    *("runs", "costs", "calibration", "evaluation", "qat", "analysis", "accuracy", "plotting", "report", "plugin_api"),
    *("pipeline", "doctor", "cli"),
)
"""Packages from low to high. Each imports only earlier ones."""
RANKS = {name: rank for rank, name in enumerate(ORDER)}
ENTRY_POINTS = ("__init__", "__main__")
PACKAGES = [*(ROOT / "srptq_plugin" / "plotting").glob("[a-z]*.py"), *(ROOT / "srptq_plugin" / "cli").glob("[a-z]*.py")]
PLAIN = """
import sys
sys.modules["matplotlib"] = None
from importlib import import_module
for name in {names!r}:
    import_module(name)
"""
POISONED = """
import sys
names = {names!r}
sys.modules.update(dict.fromkeys(names))
import srptq_adapters.plugin
from srptq_plugin.plugins.registry import Registry
registry = Registry([srptq_adapters.plugin], entry_points=False)
from srptq_plugin.plugins.registry import KINDS
print([entry.name for kind in KINDS for entry in registry.entries(kind)])
print([name for name in sys.modules if name.split(".")[0] in names and sys.modules[name]])
print([name for name in sys.modules if name.startswith(("srptq_adapters.targets", "srptq_adapters.torchao"))])
"""


def imports(code: str) -> set[str]:
    return {name for node in ast.walk(ast.parse(code)) for name in _imported(node)}


def _imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            yield from (f"{'.' * level}{module or ''}.{alias.name}" for alias in names)
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if "import" in ast.unparse(node.func):
            yield name
        case _:
            pass


def offenders(folder: Path, forbidden: tuple[str, ...]) -> list[str]:
    files = sorted(folder.rglob("*.py"))
    pairs = [(path, name) for path in files for name in imports(path.read_text(encoding="utf-8"))]
    return [f"{path}: {name}" for path, name in pairs if f"{name}.".startswith((".", *(f"{f}." for f in forbidden)))]


def test_every_way_to_import_is_seen() -> None:
    code = "import a.b\nfrom c import d\nif x:\n    from . import e\ndef f():\n    import_module('g.h')"
    assert imports(code) == {"a.b", "c.d", "..e", "g.h"}


def test_the_core_imports_no_adapter_toolkit_or_runtime() -> None:
    assert not offenders(ROOT / "srptq_plugin", ("srptq_adapters", *TOOLKITS, *RUNTIMES))


@pytest.mark.parametrize("toolkit", TOOLKITS)
def test_a_toolkit_imports_no_target_or_toolkit(toolkit: str) -> None:
    others = [other for other in TOOLKITS if other != toolkit]
    forbidden = ("srptq_adapters.targets", *others, *(f"srptq_adapters.{other}" for other in others))
    assert not offenders(ADAPTERS / toolkit, forbidden)


def test_a_target_imports_no_toolkit() -> None:
    assert not offenders(ADAPTERS / "targets", (*TOOLKITS, *(f"srptq_adapters.{name}" for name in TOOLKITS)))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "srptq_plugin").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "srptq_plugin"))
)
def test_a_package_imports_only_lower_ones(path: Path) -> None:
    own = path.relative_to(ROOT / "srptq_plugin").with_suffix("").parts[0]
    if own in ENTRY_POINTS:
        return
    for module in imported_to_run(ast.parse(path.read_text(encoding="utf-8"))):
        assert RANKS[module.split(".")[1]] <= RANKS[own], module


def imported_to_run(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of this package that code imports when it runs, not only for types."""
    choices = (
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    for_types = {id(inner) for node in choices for inner in ast.walk(node)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in for_types)
    yield from (str(node.module) for node in nodes if str(node.module).startswith("srptq_plugin."))


def module_files() -> dict[str, Path]:
    """Return the files of the core and the adapters by the name under which they are imported."""
    files = [(path, ROOT) for path in (ROOT / "srptq_plugin").rglob("*.py")]
    files += [(path, ADAPTERS.parent) for path in ADAPTERS.rglob("*.py")]
    names = (".".join(path.relative_to(base).with_suffix("").parts) for path, base in files)
    return {name.removesuffix(".__init__"): path for name, (path, _) in zip(names, files, strict=True)}


def import_graph(codes: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules that each module imports, for types and inside functions too.

    Args:
        codes: the code of each module. Imports of other modules are ignored.
    """
    graph: dict[str, set[str]] = {}
    for name, code in codes.items():
        # `from a import b` imports the module a.b, or the name b of the module a.
        choices = ((full, full.rpartition(".")[0]) for full in imports(code))
        graph[name] = {next((choice for choice in pair if choice in codes), name) for pair in choices} - {name}
    return graph


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one circle of imports, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_for_types_can_form_a_circle() -> None:
    for_types = "if TYPE_CHECKING:\n    from p.b import B"
    assert set(cycle(import_graph({"p.a": for_types, "p.b": "import p.a", "p.c": "from p import a"}))) == {"p.a", "p.b"}
    assert not cycle(import_graph({"p.a": for_types, "p.b": "", "p.c": "from p import a"}))


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = import_graph({name: path.read_text(encoding="utf-8") for name, path in module_files().items()})
    assert graph["srptq_plugin.plugins.entries"] >= {"srptq_plugin.plugins.protocols"}
    assert not cycle(graph)


def test_every_package_has_a_rank() -> None:
    packages = {
        path.stem
        for path in (ROOT / "srptq_plugin").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert packages == {*RANKS, *ENTRY_POINTS}


def output(code: str) -> list[str]:
    """Run code in another process and return the lines that it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ADAPTERS.parent)])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_plotting_is_imported_without_matplotlib() -> None:
    names = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PACKAGES)
    assert not output(PLAIN.format(names=names))


def test_the_registry_needs_no_toolkit_or_runtime() -> None:
    names, toolkits_and_runtimes, adapters = output(POISONED.format(names=[*TOOLKITS, *RUNTIMES]))
    assert {"torchao", "openvino", "dbdc", "pac", "bounded", "edsr"} <= set(ast.literal_eval(names))
    assert (toolkits_and_runtimes, adapters) == ("[]", "[]")
