"""Everything that documents name exists: links, files, recipes, keys of recipes, and names of the code."""

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from helpers.documents import PAGES, ROOT, Block, blocks, links, prose, spans, title

from srptq_plugin.analysis import ANALYSIS, BUDGET
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.recipe_keys import sections
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer, parse_set
from srptq_plugin.runs.run import PROGRAM, RECIPE, SUMMARY, TABLE

TARGETS = "|".join(entry.name for entry in Registry().entries("target"))
NAMED = re.compile(rf"(?<![\w/.-])(?:{TARGETS})-w\d+a\d+[\w-]*")
FILE = re.compile(r"[\w./*-]+/[\w.*-]*|[\w*-]+\.(?:py|md|yaml|json|jsonl|toml|txt|yml|onnx|pt2|safetensors)")
FOLDERS = (ROOT, ROOT / "srptq_plugin", ROOT / "examples" / "mqbench")
OF_THE_USER = (
    "run/",
    "run.quantizing/",
    "trained/",
    "mine.yaml",
    "model.onnx",
    "model_qnn.onnx",
    "path/op.ordinal",
    PROGRAM,
    RECIPE,
    SUMMARY,
    TABLE,
    ANALYSIS,
    f"{ANALYSIS}.rows",
    BUDGET,
    f"{BUDGET}.rows",
)
"""Names of a run's files, of a reader's files, and the form of a key."""
DOTTED = re.compile(r"([A-Za-z]\w*)\.(\w+)(?:\(.*\))?")
CALLED = re.compile(r"(\w+)\(.*\)")
OUTSIDE = (
    "torch",
    "srptq",
    "ExportedProgram",
    "session",
    "model_ncnn",
    "model_executorch",
    "model_litert",
    "model_qnn",
)
CALLED_OUTSIDE = frozenset({"prepare_pt2e", "prepare_qat_pt2e", "state_dict", "load_state_dict"})
"""Functions and dotted names of other packages, without the names that MQBench's users write."""
KEYS = {key.name for section in sections(Registry()) for key in section.keys}
SECTIONS = Recipe.model_fields.keys()
PREFIXES = ("", *(f"{name}." for name in SECTIONS), "activations.options.")
"""Prefixes under which a recipe may have a key."""
CONTEXTS = [
    [],
    ["activations.options.average=ema"],
    *([f"activations.{kind}={entry.name}"] for kind in ("observer", "quantizer") for entry in Registry().entries(kind)),
]
"""Overrides that may be needed as well, because an option belongs to another."""
pages = pytest.mark.parametrize("page", PAGES, ids=title)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), link
        assert not anchor or anchor in anchors(linked), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(ROOT / "docs")], ids=title)
def test_a_document_is_linked_from_another(page: Path) -> None:
    linked = {(other.parent / link.partition("#")[0]).resolve() for other in PAGES for link in links(other)}
    assert page in linked


@pages
def test_named_recipes_are_in_the_package(page: Path) -> None:
    assert set(NAMED.findall(page.read_text(encoding="utf-8"))) <= {*Recipe.names()}


@pages
def test_named_files_exist(page: Path) -> None:
    for span in spans(page):
        if FILE.fullmatch(span) and span not in OF_THE_USER and not span.startswith("."):
            assert any((folder / span).exists() for folder in FOLDERS), span


def test_the_picture_of_the_folders_matches() -> None:
    text = next(block.text for block in blocks("text") if block.text.startswith("srptq_plugin/"))
    folder = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            folder = line.split("/")[0]
            assert (ROOT / line.split()[0]).is_dir(), line
        for name in re.findall(r"[\w*]+\.py", line):
            assert list((ROOT / folder).rglob(name)), line


@pytest.mark.usefixtures("plugins")
@pages
def test_named_keys_and_values_are_valid(page: Path) -> None:
    for span in spans(page):
        key, colon, value = span.partition(": ")
        if key.partition(".")[0] in SECTIONS and "." in key and "(" not in key and not FILE.fullmatch(key):
            assert re.sub(r"^(\w+)\.(options|quantizer_options)\..*", r"\1.\2", key) in KEYS, span
        if colon and re.fullmatch(r"[\w.]+", key) and "srptq." not in value:
            assert _is_valid(key, value), span


def _is_valid(key: str, value: str) -> bool:
    """Return whether a target accepts the key with this value, in any context."""
    candidates = [[*context, f"{prefix}{key}={value}"] for context in CONTEXTS for prefix in PREFIXES]
    return any(
        _accepts(target, overrides)
        for overrides in candidates
        for target in ("openvino", "snpe", "litert", "tensorrt", "paper")
    )


def _accepts(target: str, overrides: Sequence[str]) -> bool:
    base = RecipeLayer("", {"target": target, "reconstruction": {"name": "pac"}})
    try:
        BoundRecipe.of(Recipe.from_layers([base, *map(parse_set, overrides)]), Registry())
    except SrptqError:
        return False
    return True


def _definitions(node: ast.AST) -> Iterator[str]:
    """Yield the names that a module's or a class's body defines."""
    for statement in getattr(node, "body", []):
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name
            case _:
                pass


@cache
def definitions() -> dict[str, set[str]]:
    """Return the names that each of our modules and classes defines, by its name."""
    names: dict[str, set[str]] = {}
    for folder in ("srptq_plugin", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
            for name, node in [(path.stem, tree), *((kind.name, kind) for kind in classes)]:
                names.setdefault(name, set()).update(_definitions(node))
    for name in ("srptq_plugin", "srptq_plugin.plugin_api"):
        names[name.rpartition(".")[2]] = set(import_module(name).__all__)
    names["srptq_plugin"].add("plugin_api")
    return names


@pages
def test_names_of_the_code_are_defined(page: Path) -> None:
    known = definitions()
    everything = set[str]().union(*known.values())
    for span in spans(page):
        dotted, called = DOTTED.fullmatch(span), CALLED.fullmatch(span)
        if dotted and dotted[1] not in OUTSIDE and dotted[1] not in SECTIONS and not FILE.fullmatch(span):
            assert dotted[2] in known.get(dotted[1], ()), span
        elif called:
            assert called[1] in everything | CALLED_OUTSIDE, span


def test_the_readme_names_every_quantizer_and_observer() -> None:
    readme, registry = spans(ROOT / "README.md"), Registry()
    for kind in ("observer", "quantizer", "model"):
        assert {entry.name for entry in registry.entries(kind)} - {"edsr-mini"} <= set(readme), kind


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_yaml_block_is_a_recipe(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(block.text, encoding="utf-8")
    BoundRecipe.of(Recipe.load(path), Registry())


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_a_toml_block_is_an_entry_point(block: Block) -> None:
    assert tomllib.loads(block.text)["project"]["entry-points"]["srptq"]
