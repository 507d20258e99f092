import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from helpers.command_line import TINY, Result, Srptq, Terminal, Written, captured
from PIL import Image

from srptq_plugin.cli import main

TARGETS = ("openvino", "onnxruntime", "paper")


@pytest.fixture
def srptq(capfd: pytest.CaptureFixture[str]) -> Iterator[Srptq]:
    """Run the command line in this process, and restore the root logger afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*argv: str | Path) -> Result:
        capfd.readouterr()
        code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two tiny high-resolution images."""
    folder = tmp_path_factory.mktemp("hr")
    Image.fromarray(skimage.data.astronaut()[:96, :112]).save(folder / "a.png")
    Image.fromarray(skimage.data.coffee()[100:200, 100:190]).save(folder / "b.png")
    return folder


@pytest.fixture(scope="session", params=[pytest.param(target, marks=pytest.mark.slow) for target in TARGETS])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Quantize the bundled network in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    result = captured("quantize", "--recipe", f"{request.param}-w8a8", *TINY, "--out", folder, "--json")
    assert result.out, result.err
    return Written(folder, result, json.loads(result.out))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Imitate a color terminal of 80 columns."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()
