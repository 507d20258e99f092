"""What documents name is there: links, files, recipes, keys of recipes, and names of the code."""

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from helpers.documents import PAGES, ROOT, Block, blocks, links, prose, spans

from srptq_plugin.cli.analyze_command import ANALYSIS, BUDGET
from srptq_plugin.errors import SrptqError
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.recipe_keys import sections
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer, parse_set
from srptq_plugin.runs.run import PROGRAM, RECIPE, SUMMARY, TABLE

TARGETS = "|".join(entry.name for entry in Registry().entries("target"))
NAMED = re.compile(rf"(?<![\w/.-])(?:{TARGETS})-w\d+a\d+[\w-]*")
FILE = re.compile(r"[\w./*-]+/[\w.*-]*|[\w*-]+\.(?:py|md|yaml|json|jsonl|toml|onnx|pt2|safetensors)")
FOLDERS = (ROOT, ROOT / "srptq_plugin", ROOT / "examples" / "mqbench")
OF_THE_USER = (
    "run/",
    "trained/",
    "mine.yaml",
    "model.onnx",
    "path/op.ordinal",
    PROGRAM,
    RECIPE,
    SUMMARY,
    TABLE,
    ANALYSIS,
    BUDGET,
)
"""What a run writes, what a reader has, and how a key is written."""
DOTTED = re.compile(r"([A-Za-z]\w*)\.(\w+)(?:\(.*\))?")
CALLED = re.compile(r"(\w+)\(.*\)")
OUTSIDE = ("torch", "srptq", "ExportedProgram", "session")
CALLED_OUTSIDE = frozenset({"prepare_pt2e", "prepare_qat_pt2e"})
"""What is dotted and not ours, but for names that MQBench's users write."""
EXPORTS = {f"export.{key}" for entry in Registry().entries("target") for key in entry.load().exports}
KEYS = EXPORTS | {key.name for section in sections(Registry()) for key in section.keys}
SECTIONS = Recipe.model_fields.keys()
PLACES = ("", *(f"{name}." for name in SECTIONS), "activations.options.")
"""Where in a recipe a key may stand."""
CONTEXTS = [
    [],
    *([f"activations.{kind}={each.name}"] for kind in ("observer", "quantizer") for each in Registry().entries(kind)),
]
"""What else a recipe may have to say, as options are those of one observer or quantizer."""
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def anchors(page: Path) -> set[str]:
    """Where in a page a link may lead, as GitHub names headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda page: page.name)
def test_a_document_is_linked_from_another(page: Path) -> None:
    assert any(
        link.endswith(page.name) or f"`docs/{page.name}`" in prose(other) for other in PAGES for link in links(other)
    )


@pages
def test_recipes_that_are_named_come_with_the_package(page: Path) -> None:
    assert set(NAMED.findall(page.read_text(encoding="utf-8"))) <= {*Recipe.names()}


@pages
def test_files_that_are_named_are_there(page: Path) -> None:
    for span in spans(page):
        if FILE.fullmatch(span) and span not in OF_THE_USER and not span.startswith("."):
            assert any((folder / span).exists() for folder in FOLDERS), span


def test_the_picture_of_the_folders_is_true() -> None:
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
def test_keys_and_values_that_are_named_may_be_said_in_a_recipe(page: Path) -> None:
    for span in spans(page):
        key, colon, value = span.partition(": ")
        if key.partition(".")[0] in SECTIONS and "." in key and "(" not in key and not FILE.fullmatch(key):
            assert re.sub(r"^(\w+)\.(options|quantizer_options)\..*", r"\1.\2", key) in KEYS, span
        if colon and re.fullmatch(r"[\w.]+", key) and "srptq." not in value:
            assert _may_say(key, value), span


def _may_say(key: str, value: str) -> bool:
    """Whether some target takes it, in some context."""
    said = [[*context, f"{place}{key}={value}"] for context in CONTEXTS for place in PLACES]
    return any(_is_taken(target, each) for each in said for target in ("openvino", "snpe", "paper"))


def _is_taken(target: str, said: Sequence[str]) -> bool:
    base = RecipeLayer("", {"target": target, "reconstruction": {"name": "pac"}})
    try:
        BoundRecipe.of(Recipe.from_layers([base, *map(parse_set, said)]), Registry())
    except SrptqError:
        return False
    return True


def _defined(node: ast.AST) -> Iterator[str]:
    """The names that a module's or a class's body defines."""
    for each in getattr(node, "body", []):
        match each:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name
            case _:
                pass


@cache
def code() -> dict[str, set[str]]:
    """Every module and class of ours, and what it defines."""
    found: dict[str, set[str]] = {}
    for folder in ("srptq_plugin", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
            for name, node in [(path.stem, tree), *((each.name, each) for each in classes)]:
                found.setdefault(name, set()).update(_defined(node))
    for name in ("srptq_plugin", "srptq_plugin.plugin_api"):
        found[name.rpartition(".")[2]] = set(import_module(name).__all__)
    found["srptq_plugin"].add("plugin_api")
    return found


@pages
def test_names_of_the_code_are_defined(page: Path) -> None:
    known = code()
    everything = set[str]().union(*known.values())
    for span in spans(page):
        dotted, called = DOTTED.fullmatch(span), CALLED.fullmatch(span)
        if dotted and dotted[1] not in OUTSIDE and dotted[1] not in SECTIONS and not FILE.fullmatch(span):
            assert dotted[2] in known.get(dotted[1], ()), span
        elif called:
            assert called[1] in everything | CALLED_OUTSIDE, span


def test_the_table_of_what_is_there_names_all_quantizers_and_observers() -> None:
    readme, registry = spans(ROOT / "README.md"), Registry()
    for kind in ("observer", "quantizer", "model"):
        assert {entry.name for entry in registry.entries(kind)} - {"edsr-mini"} <= set(readme), kind


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_recipe(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(block.text, encoding="utf-8")
    BoundRecipe.of(Recipe.load(path), Registry())


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_an_entry_point_of_ours(block: Block) -> None:
    assert tomllib.loads(block.text)["project"]["entry-points"]["srptq"]
