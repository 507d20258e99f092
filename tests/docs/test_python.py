"""The Python of documents: it compiles, what it imports is there, and it runs on what a reader is assumed to have."""

import ast
import importlib.util
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from documents import Block, blocks

import srptq_plugin
from srptq_plugin.models.edsr import EDSR

BLOCKS = blocks("python")
SHORTER = {"steps=1000": "steps=2"}
INSIDE_MQBENCH = 'activate("mqbench")'
Names = dict[str, Any]


@pytest.fixture
def given(small_network: EDSR) -> Names:
    """What a reader has: a network, patches for it, and the network exported and prepared."""
    torchao = import_module("srptq_adapters.torchao")
    pt2e = import_module("torchao.quantization.pt2e.quantize_pt2e")
    patches = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    exported: Callable[[], Any] = torch.export.export(small_network, (patches[:2],)).module
    prepared = pt2e.prepare_pt2e(exported(), torchao.SRQuantizer.from_recipe("openvino-w8a8"))
    return {"network": small_network, "patches": patches, "exported": exported(), "prepared": prepared}


@pytest.fixture
def inactive() -> Iterator[None]:
    """MQBench as it was, whatever a block activated."""
    yield
    srptq_plugin.deactivate("mqbench")


def imports(block: Block) -> Iterator[ast.Import | ast.ImportFrom]:
    nodes = ast.parse(block.text).body
    yield from (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def earlier(block: Block) -> list[ast.stmt]:
    """What blocks above it on its page have imported."""
    above = [each for each in BLOCKS if each.page == block.page and each.line < block.line]
    return [node for each in above for node in imports(each)]


def is_mqbench_real() -> bool:
    found = importlib.util.find_spec("mqbench")
    return found is not None and found.origin is not None and "standins" not in found.origin


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_what_it_imports_is_there(block: Block) -> None:
    for node in imports(block):
        for alias in node.names:
            path = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            if not path.startswith("mqbench"):
                assert _is_there(path), path


def _is_there(path: str) -> bool:
    module, _, name = path.rpartition(".")
    return bool(module and hasattr(import_module(module), name)) or importlib.util.find_spec(path) is not None


@pytest.mark.usefixtures("workplace", "inactive", "plugins")
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_runs(block: Block, given: Names) -> None:
    if INSIDE_MQBENCH in block.text and not is_mqbench_real():
        pytest.skip("needs the real MQBench")
    text = block.text
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    tree = ast.parse(text)
    tree.body = [*earlier(block), *tree.body]
    before = set(Path().iterdir())
    exec(compile(tree, str(block), "exec"), given)  # noqa: S102 - our own documents
    assert set(Path().iterdir()) - before == written(tree)


def written(tree: ast.Module) -> set[Path]:
    """The folders that calls name as `out`."""
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "out")
    return {Path(str(node.value.value)) for node in keywords if isinstance(node.value, ast.Constant)}
