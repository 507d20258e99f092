"""The distribution's declarations: a requirement for each import, and the marker of typed packages."""

import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from test_layers import imports

ROOT = Path(__file__).parent.parent
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = [ROOT / path for path in CONFIG["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
UNPUBLISHED = "mqbench"
"""A package that is not on PyPI."""


def declared(*extras: str) -> set[str]:
    project = CONFIG["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {normalized(line.split(">=")[0]) for line in lines}


def normalized(name: str) -> str:
    return name.lower().replace("_", "-")


def imported(package: Path) -> set[str]:
    """Return the top-level names that a package imports from other distributions."""
    files = package.rglob("*.py")
    names = {name.partition(".")[0] for path in files for name in imports(path.read_text(encoding="utf-8"))}
    return names - sys.stdlib_module_names - {path.name for path in PACKAGES} - {UNPUBLISHED, ""}


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        (PACKAGES[0], ("plot", "completion")),
        (PACKAGES[1], ("torchao", "openvino", "onnxruntime", "litert", "ncnn", "executorch", "qnn", "spandrel")),
    ],
)
def test_every_import_is_declared(package: Path, extras: tuple[str, ...]) -> None:
    distributions = packages_distributions()
    names = {name: {normalized(owner) for owner in distributions.get(name, [name])} for name in imported(package)}
    assert {"torch", "numpy"} <= names.keys()
    assert [name for name, owners in names.items() if not owners & declared(*extras)] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_typed_packages_say_so(package: Path) -> None:
    assert "Typing :: Typed" in CONFIG["project"]["classifiers"]
    assert (package / "py.typed").read_text() == ""
