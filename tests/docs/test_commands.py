"""The commands in documents: their programs, options, recipes, targets, extras and files exist."""

import ast
import runpy
import shlex
import sys
import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
from helpers.documents import PAGES, ROOT, Block, Command, blocks, commands, commands_of, spans, title

import srptq_plugin
from srptq_plugin.cli.command import BY_NAME
from srptq_plugin.cli.parser import parse
from srptq_plugin.models.loading import is_network_file
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes import DEFAULT_RECIPE
from srptq_plugin.recipes.recipe import Recipe

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMES = list(BY_NAME)
WRITTEN_THERE = ("mine.yaml", "mixed.yaml", "sigma.yaml")
"""Recipes that a document shows or makes, and then uses."""


class ArgumentsParsed(BaseException):
    """Stops a script after it has parsed its arguments."""


def inline(*starts: str) -> list[Command]:
    """Return the commands in inline code that start with one of these strings."""
    matches = [(page, span) for page in PAGES for span in spans(page) if span.startswith(starts)]
    return [command for page, span in matches for command in commands_of(Block(page, 0, "sh", span))]


def documented(program: str) -> Iterable[Command]:
    """Return a program's commands in blocks and in inline code, each once."""
    return dict.fromkeys([*commands(program), *inline(f"{program} ")])


def test_every_block_has_a_known_language() -> None:
    assert {block.language for block in blocks()} <= {"sh", "python", "yaml", "toml", "text"}


def test_only_known_programs_are_called() -> None:
    assert {command.program for command in commands()} <= {"srptq", "torchrun", "pip", "python", "make"}


@pytest.mark.parametrize("command", documented("torchrun"), ids=str)
def test_torchrun_starts_commands_that_share(command: Command) -> None:
    module = command.arguments.index("srptq_plugin")
    assert command.arguments[module - 1] == "-m"
    assert BY_NAME[parse(command.arguments[module + 1 :]).command].shared


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("command", documented("srptq"), ids=str)
def test_srptq_takes_these_arguments(command: Command) -> None:
    if len(command.arguments) == 1:
        assert command.arguments[0] in NAMES
        return
    options = parse(command.arguments)
    recipe = options.recipe or DEFAULT_RECIPE if "recipe" in options else None
    if recipe and recipe not in WRITTEN_THERE:
        BoundRecipe.of(Recipe.load(recipe, options.set), Registry())
    look_up_names(options)


def look_up_names(options: Namespace) -> None:
    """Look up every name among the options. An unknown one raises."""
    registry = Registry()
    if getattr(options, "target", None):
        registry.target(options.target)
    if getattr(options, "toolkit", None):
        registry.toolkit(options.toolkit)
    model = getattr(options, "model", None)
    if model and ":" not in model and not is_network_file(model):
        registry.model(model)
    if options.command == "recipes" and options.name:
        Recipe.load(options.name)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("command", inline("--"), ids=str)
def test_an_option_in_prose_exists(command: Command) -> None:
    words = [command.program, *command.arguments]
    options = {option for name in NAMES for option in list_options(name)}
    assert {word for word in words if word.startswith("--")} <= options
    if "--set" in words and words != ["--set"]:
        overrides = [word for word in words if "=" in word]
        assert any(loads(base, overrides) for base in ("openvino-w8a8", "snpe-w8a8", "paper-w8a8-fqsr-s8"))


def list_options(name: str) -> set[str]:
    """Return the options of a command."""
    parser = ArgumentParser()
    BY_NAME[name].add_options(parser)
    return {"--json", *parser._option_string_actions}


def loads(base: str, overrides: list[str]) -> bool:
    """Return whether a recipe is valid with these overrides."""
    try:
        BoundRecipe.of(Recipe.load(base, overrides), Registry())
    except srptq_plugin.SrptqError:
        return False
    return True


@pytest.mark.parametrize("command", [pip for pip in commands("pip") if "-e" in pip.arguments], ids=str)
def test_pip_installs_existing_extras(command: Command) -> None:
    *others, last = command.arguments
    assert others == ["install", "-c", "constraints.txt", "-e"]
    assert (ROOT / "constraints.txt").is_file()
    if "[" not in last:
        assert (ROOT / last / "pyproject.toml").is_file()
        return
    assert set(last.removeprefix(".[").removesuffix("]").split(",")) <= EXTRAS.keys()


def test_documents_name_the_same_commit_of_mqbench() -> None:
    requirement = import_module("srptq_adapters.plugin").MQBENCH
    assert [pip.arguments[-1] for pip in commands("pip") if "-e" not in pip.arguments] == [requirement]
    assert requirement in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    commit = requirement.rpartition("@")[2]
    assert all(
        commit in page.read_text(encoding="utf-8")
        for page in PAGES
        if title(page) in ("README.md", "mqbench.md", "benchmarks/mqbench.md")
    )


@pytest.mark.parametrize("command", documented("make"), ids=str)
def test_make_has_this_target(command: Command) -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert all(any(line.startswith(f"{target}:") for line in lines) for target in command.arguments)


@pytest.mark.parametrize("command", documented("python"), ids=str)
def test_a_script_takes_these_arguments(command: Command, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, *arguments = command.arguments
    if not imports(root / script, "argparse"):
        assert not arguments
        return
    options = parse_by_script(root / script, arguments, monkeypatch)
    for name in getattr(options, "recipes", []):
        Recipe.load(name)
    for factory in (getattr(options, "model", None), getattr(options, "leaf", None)):
        if factory and ":" in factory:
            module, _, name = factory.partition(":")
            assert command.variables == ("PYTHONPATH=examples",)
            monkeypatch.syspath_prepend(str(root / "examples"))
            assert callable(getattr(import_module(module), name))


def imports(script: Path, module: str) -> bool:
    """Return whether a script has `import module`."""
    nodes = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
    return any(isinstance(node, ast.Import) and module in [alias.name for alias in node.names] for node in nodes)


def parse_by_script(script: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """Run a script until it has parsed these arguments, and return the result."""
    namespaces: list[Namespace] = []
    original = ArgumentParser.parse_args

    def parse_args(parser: ArgumentParser) -> None:
        namespaces.append(original(parser))
        raise ArgumentsParsed

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.syspath_prepend(str(script.parent))
    try:
        with pytest.raises(ArgumentsParsed):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        srptq_plugin.deactivate("mqbench")
    return namespaces[0]


@pytest.mark.parametrize("path", ["benchmarks", "benchmarks/edsr_mini", "docs"])
def test_a_script_shows_its_own_call(path: str) -> None:
    for script in (ROOT / path).glob("*.py"):
        lines = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").splitlines()
        calls = [shlex.split(line) for line in lines if line.startswith("    ") and "python " in line]
        assert all(f"{path}/{script.name}" in call for call in calls), script
