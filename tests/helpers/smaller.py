"""Python code of documents and notebooks, with a small network, few patches and few steps."""

import ast
import importlib.util
from collections.abc import Iterator

from helpers.documents import WEIGHTS

SMALL_NETWORK = f'"edsr", weights="{WEIGHTS}"'
SMALLER = {
    "load_model()": f"load_model({SMALL_NETWORK}, input_range=(0, 255))",
    'quantize("openvino-w8a8-fast", out': f'quantize("openvino-w8a8-fast", model={SMALL_NETWORK}, out',
    '"rrdb", weights="RealESRGAN_x4plus_anime_6B.pth"': SMALL_NETWORK,
    "quantize(recipe, out": f"quantize(recipe, model={SMALL_NETWORK}, out",
    "load_patches(32,": "load_patches(4, size=24,",
    'out="run/"': 'out="run/", overrides=["calibration.patches=2"]',
    "overrides=overrides": 'overrides=[*overrides, "calibration.patches=2"]',
    "steps=200": "steps=2",
    "range(100)": "range(2)",
    "[1, 3, 48, 48]": "[1, 3, 24, 24]",
}


def shortened(code: str) -> str:
    """Return a script with a small network, few patches and few steps."""
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    return code


def missing_packages(code: str) -> list[str]:
    """Return the packages that a script imports and that are not installed. The tests' stand-ins do not count."""
    modules = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in _imports(code)]
    packages = {module.partition(".")[0] for module in modules} & {
        "mqbench",
        "executorch",
        "ncnn",
        "ai_edge_litert",
        "onnxruntime_qnn",
    }
    return sorted(name for name in packages if not _is_installed(name))


def _imports(code: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports of a script."""
    yield from (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom))


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and "standins" not in str(spec.origin)
