"""The hosted workflows, the site's navigation and the citation name what the repository has."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.documents import PAGES, ROOT

import srptq_plugin

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LISTED = "Programming Language :: Python :: "
workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def jobs(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of each command that a workflow runs."""
    for step in chain.from_iterable(job["steps"] for job in jobs(path).values()):
        yield from map(shlex.split, step.get("run", "").splitlines())


@workflows
def test_jobs_have_steps_and_least_rights(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "jobs"} < workflow.keys()
    assert True in workflow  # YAML reads the key `on` so
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in jobs(path).items():
        assert job["runs-on"], name
        assert all(("run" in step) != ("uses" in step) for step in job["steps"]), name
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@\S+", step["uses"]) for step in job["steps"] if "uses" in step), name
        assert {job["needs"]} <= jobs(path).keys() if "needs" in job else True


@workflows
def test_commands_name_targets_extras_and_folders(path: Path) -> None:
    for words in commands(path):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE), words
        for extras in re.findall(r"\.\[(.*)\]", " ".join(words)):
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), words


def test_the_matrix_has_the_listed_versions() -> None:
    versions = jobs(ROOT / ".github" / "workflows" / "test.yml")["test"]["strategy"]["matrix"]["python"]
    assert versions == [line.removeprefix(LISTED) for line in PROJECT["classifiers"] if line.startswith(LISTED)]
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_only_the_upload_gets_a_token() -> None:
    publishing = jobs(ROOT / ".github" / "workflows" / "publish.yml")
    assert publishing["upload"]["permissions"] == {"id-token": "write"}
    assert [name for name, job in publishing.items() if "permissions" in job] == ["upload"]


def test_the_citation_has_version_and_repository() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == srptq_plugin.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


class _Site(yaml.SafeLoader):
    """Reads `mkdocs.yml`, whose tags for Python mean nothing here."""


def _read_arguments(loader: _Site, _tag: str, node: yaml.Node) -> object:
    return loader.construct_mapping(node) if isinstance(node, yaml.MappingNode) else None


_Site.add_multi_constructor("tag:yaml.org,2002:python/", _read_arguments)


def pages_of(entry: Any) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from pages_of(part)


def test_the_navigation_has_every_page() -> None:
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Site)  # noqa: S506 - a safe loader
    named = list(pages_of(site["nav"]))
    documents = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert sorted(named) == sorted({*documents, "index.md", "changes.md"})
    assert site["repo_url"] == PROJECT["urls"]["Repository"]
    assert site["theme"]["font"] is False
