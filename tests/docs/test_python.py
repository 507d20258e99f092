"""The Python blocks of documents: each runs as pasted, in its own process, with smaller numbers."""

import ast
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import scripts
from helpers.documents import WEIGHTS, Block, blocks
from notebooks import PAGES

BLOCKS = [block for block in blocks("python") if block.page not in PAGES.values()]
"""The blocks of a notebook's page need the earlier ones. They run as the notebook."""
SMALL_NETWORK = f'"edsr", weights="{WEIGHTS}"'
SMALLER = {
    "load_model()": f"load_model({SMALL_NETWORK}, input_range=(0, 255))",
    'quantize("openvino-w8a8-fast", out': f'quantize("openvino-w8a8-fast", model={SMALL_NETWORK}, out',
    '"rrdb", weights="RealESRGAN_x4plus_anime_6B.pth"': SMALL_NETWORK,
    "quantize(recipe, out": f"quantize(recipe, model={SMALL_NETWORK}, out",
    "load_patches(32,": "load_patches(4, size=24,",
    'out="run/"': 'out="run/", overrides=["calibration.patches=2"]',
    "steps=200": "steps=2",
    "range(100)": "range(2)",
    "[1, 3, 48, 48]": "[1, 3, 24, 24]",
}
FILE = "# "
"""A block that begins so with a file name is that file."""


def imports(code: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports of a script."""
    yield from (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom))


def missing_packages(code: str) -> list[str]:
    """Return the packages that a script imports and that are not installed. The tests' stand-ins do not count."""
    modules = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports(code)]
    packages = {module.partition(".")[0] for module in modules} & {
        "mqbench",
        "executorch",
        "ncnn",
        "ai_edge_litert",
        "onnxruntime_qnn",
    }
    return sorted(name for name in packages if not _is_installed(name))


def shortened(code: str) -> str:
    """Return a script with a small network, few patches and few steps."""
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    return code


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and "standins" not in str(spec.origin)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_runs_as_pasted(block: Block, weights: Path, tmp_path: Path) -> None:
    if absent := missing_packages(block.text):
        pytest.skip(f"needs {' and '.join(absent)}")
    shutil.copy(weights, tmp_path)
    for other in BLOCKS:
        name = other.text.partition("\n")[0].removeprefix(FILE)
        if other.text.startswith(FILE) and name.endswith(".py"):
            (tmp_path / name).write_text(other.text, encoding="utf-8")
    path = tmp_path / "pasted.py"
    path.write_text(shortened(block.text), encoding="utf-8")
    scripts.run(path, tmp_path)


@pytest.mark.parametrize("name", SMALLER)
def test_every_replaced_text_is_in_a_document(name: str) -> None:
    assert any(name in block.text for block in blocks("python"))
