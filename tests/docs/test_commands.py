"""What documents tell to type: programs, options, recipes, targets, extras and files are there."""

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
from helpers.documents import PAGES, ROOT, Block, Command, blocks, commands, commands_of, spans

import srptq_plugin
from srptq_plugin.cli.command import BY_NAME
from srptq_plugin.cli.parser import parse
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes import DEFAULT_RECIPE
from srptq_plugin.recipes.recipe import Recipe

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMES = list(BY_NAME)
WRITTEN_THERE = ("mine.yaml", "mixed.yaml", "sigma.yaml")
"""Recipes that a document shows or makes, and then uses."""


class Read(BaseException):
    """A script has read its arguments."""


def inline(*starts: str) -> list[Command]:
    """The commands in prose that start so."""
    found = [(page, span) for page in PAGES for span in spans(page) if span.startswith(starts)]
    return [command for page, span in found for command in commands_of(Block(page, 0, "sh", span))]


def told(program: str) -> Iterable[Command]:
    return dict.fromkeys([*commands(program), *inline(f"{program} ")])


def test_every_block_says_its_language() -> None:
    assert {block.language for block in blocks()} <= {"sh", "python", "yaml", "toml", "text"}


def test_only_known_programs_are_called() -> None:
    assert {command.program for command in commands()} <= {"srptq", "pip", "python", "make"}


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("command", told("srptq"), ids=str)
def test_srptq_takes_these_arguments(command: Command) -> None:
    if len(command.arguments) == 1:
        assert command.arguments[0] in NAMES
        return
    asked = parse(command.arguments)
    recipe = asked.recipe or DEFAULT_RECIPE if "recipe" in asked else None
    if recipe and recipe not in WRITTEN_THERE:
        BoundRecipe.of(Recipe.load(recipe, asked.set), Registry())
    names_are_known(asked)


def names_are_known(asked: Namespace) -> None:
    registry = Registry()
    if getattr(asked, "target", None):
        registry.target(asked.target)
    if getattr(asked, "toolkit", None):
        registry.toolkit(asked.toolkit)
    if getattr(asked, "model", None) and ":" not in asked.model:
        registry.model(asked.model)
    if asked.command == "recipes" and asked.name:
        Recipe.load(asked.name)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("command", inline("--"), ids=str)
def test_an_option_in_prose_is_one_of_srptqs(command: Command) -> None:
    words = [command.program, *command.arguments]
    options = {option for name in NAMES for option in options_of(name)}
    assert {word for word in words if word.startswith("--")} <= options
    if "--set" in words and words != ["--set"]:
        changed = [word for word in words if word != "--set"]
        assert any(loads(base, changed) for base in ("openvino-w8a8", "paper-w8a8-fqsr-s8"))


def options_of(name: str) -> set[str]:
    parser = ArgumentParser()
    BY_NAME[name].add_options(parser)
    return {"--json", *parser._option_string_actions}


def loads(base: str, changed: list[str]) -> bool:
    try:
        BoundRecipe.of(Recipe.load(base, changed), Registry())
    except srptq_plugin.SrptqError:
        return False
    return True


@pytest.mark.parametrize("command", [each for each in commands("pip") if "-e" in each.arguments], ids=str)
def test_pip_installs_extras_that_there_are(command: Command) -> None:
    *others, last = command.arguments
    assert others == ["install", "-c", "constraints.txt", "-e"]
    assert (ROOT / "constraints.txt").is_file()
    if "[" not in last:
        assert (ROOT / last / "pyproject.toml").is_file()
        return
    assert set(last.removeprefix(".[").removesuffix("]").split(",")) <= EXTRAS.keys()


def test_everybody_names_the_same_commit_of_mqbench() -> None:
    wanted = import_module("srptq_adapters.plugin").MQBENCH
    assert [each.arguments[-1] for each in commands("pip") if "-e" not in each.arguments] == [wanted]
    assert wanted in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    short = wanted.rpartition("@")[2]
    assert all(
        short in page.read_text(encoding="utf-8") for page in PAGES if page.name in ("README.md", "benchmarks.md")
    )


@pytest.mark.parametrize("command", told("make"), ids=str)
def test_make_has_such_a_target(command: Command) -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert all(any(line.startswith(f"{target}:") for line in lines) for target in command.arguments)


@pytest.mark.parametrize("command", told("python"), ids=str)
def test_a_script_takes_these_arguments(command: Command, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, *arguments = command.arguments
    if not imports(root / script, "argparse"):
        assert not arguments
        return
    asked = arguments_of(root / script, arguments, monkeypatch)
    for name in getattr(asked, "recipes", []):
        Recipe.load(name)
    for factory in (getattr(asked, "model", None), getattr(asked, "leaf", None)):
        if factory and ":" in factory:
            module, _, name = factory.partition(":")
            assert command.variables == ("PYTHONPATH=examples",)
            monkeypatch.syspath_prepend(str(root / "examples"))
            assert callable(getattr(import_module(module), name))


def imports(script: Path, module: str) -> bool:
    nodes = ast.walk(ast.parse(script.read_text(encoding="utf-8")))
    return any(isinstance(node, ast.Import) and module in [alias.name for alias in node.names] for node in nodes)


def arguments_of(script: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """What a script makes of its arguments; it runs until it has read them."""
    found: list[Namespace] = []
    read = ArgumentParser.parse_args

    def parse_args(parser: ArgumentParser) -> None:
        found.append(read(parser))
        raise Read

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.syspath_prepend(str(script.parent))
    try:
        with pytest.raises(Read):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        srptq_plugin.deactivate("mqbench")
    return found[0]


@pytest.mark.parametrize("path", ["benchmarks", "training", "docs"])
def test_a_script_says_how_it_is_called(path: str) -> None:
    for script in (ROOT / path).glob("*.py"):
        told_of = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").splitlines()
        calls = [shlex.split(line) for line in told_of if line.startswith("    ") and "python " in line]
        assert all(f"{path}/{script.name}" in call for call in calls), script
