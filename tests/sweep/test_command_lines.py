"""Odd values of options, and paths that cannot be read or written."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from helpers.photographs import pixels, save
from helpers.sweeping import Sweep
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srptq_plugin.cli.command import BY_NAME

Runs = Callable[[str], Path]
NAMES = tuple(BY_NAME)
ODD = ("", " ", "-1", "0", "1e9", "nan", "é", "\x1b[2J", "\udcff", "a\nb", "x" * 300, "../../..", "{", "%s%n")
GONE = ("--weights", "gone.pth")
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "--scale": ("quantize", *GONE),
    "--input-size": ("quantize", *GONE),
    "--input-range": ("quantize", *GONE),
    "--model-args": ("quantize", *GONE),
    "--device": ("quantize", "--images", "gone"),
    "--toolkit": ("quantize", *GONE),
    "--model": ("quantize", "--images", "gone"),
    "--images": ("quantize", *GONE),
    "--weights": ("quantize",),
    "--patches": ("analyze", *GONE),
    "--by": ("analyze", *GONE),
    "--bits": ("analyze", *GONE),
    "--budget": ("analyze", *GONE, "--out", "out/gone"),
    "--recipe-out": ("analyze", *GONE, "--budget", "bops=0.3"),
    "--site": ("plot", "gone"),
    "--target": ("lint", "gone.onnx"),
    "--tile": ("evaluate", "gone", "--data", "gone"),
    "--overlap": ("evaluate", "gone", "--data", "gone"),
    "--run": ("train", "paper-w4a4", "--images", "gone"),
    "--csv": ("evaluate", "gone", "--data", "gone"),
}
WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
"""Text that a shell can pass as an argument."""
FEW = settings(
    max_examples=80, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@pytest.mark.parametrize("value", [*ODD, "1:0:1", "1x3x1x99999", "0.1:inf", "a=b=c", "_=1", "∞", "٣"])
@pytest.mark.parametrize("option", NUMBERS)
def test_odd_values(sweep: Sweep, option: str, value: str) -> None:
    sweep(*NUMBERS[option], f"{option}={value}", names=[option, option[2:], value, "gone", "weights"])


@pytest.mark.parametrize("command", NAMES)
@pytest.mark.parametrize("value", ODD)
def test_odd_arguments(sweep: Sweep, command: str, value: str) -> None:
    sweep(command, value, "--nonsense")
    sweep(command, f"--{value or 'nonsense'}")


@pytest.mark.parametrize("value", ODD)
def test_odd_commands(sweep: Sweep, value: str) -> None:
    sweep(value, names=["COMMAND", "arguments"])


@pytest.mark.parametrize(
    "value", [*ODD, ":", "a:", ":b", "a:b", "os:getcwd", "os.path:gone", "json:loads", "a.b.c:d:e"]
)
def test_odd_networks(sweep: Sweep, value: str) -> None:
    sweep("cost", f"--model={value}", names=["model"])


@FEW
@given(st.sampled_from(NAMES), st.lists(WORDS, max_size=4))
def test_any_arguments(sweep: Sweep, command: str, words: list[str]) -> None:
    if words or command not in ("quantize", "cost", "analyze"):
        sweep(command, *words, "--nonsense")


@FEW
@given(st.sampled_from(sorted(NUMBERS)), WORDS | st.integers().map(str) | st.floats().map(str))
def test_any_value(sweep: Sweep, option: str, value: str) -> None:
    sweep(*NUMBERS[option], f"{option}={value}", names=[option, option[2:], value, "gone", "weights"])


SOURCES: Mapping[str, str] = {
    "a mistake": "def build(: pass",
    "an error": "1 / 0",
    "an end": "import sys; sys.exit('done')",
    "a null byte": "\0",
    "no code": "build = 3",
    "nothing": "def build(): return None",
    "a failure": "def build(): raise ValueError('a\\nb\\x1b[2J')",
    "a silent failure": "def build(): raise ValueError",
    "an assertion": "def build(): assert False",
    "an endless one": "def build(): return build()",
    "a class": "import torch\nclass build(torch.nn.Module): pass",
    "no module": "import torch\ndef build(): return torch.nn.Conv2d",
    "no image": "import torch\ndef build(): return torch.nn.Flatten()",
    "text": "import torch\nclass build(torch.nn.Module):\n def forward(self, x): return 'x'",
    "an end while running": "import torch\nclass build(torch.nn.Module):\n def forward(self, x): raise SystemExit(3)",
    "a smaller image": "import torch\ndef build(): return torch.nn.AvgPool2d(2)",
    "gray": "import torch\ndef build(): return torch.nn.Conv2d(3, 1, 1)",
    "no numbers": "import torch\nclass build(torch.nn.Module):\n def forward(self, x): return x / 0 * 0",
    "no layers": "import torch\ndef build(): return torch.nn.Identity()",
    "branches": "import torch\nclass build(torch.nn.Module):\n def forward(self, x): return x if x.sum() > 0 else -x",
    "a warning": "import warnings\nwarnings.warn('beware')\nbuild = 3",
    "noise": "print('noise')\nbuild = 3",
}


@pytest.mark.parametrize("name", SOURCES)
def test_odd_factories(sweep: Sweep, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"factory_{list(SOURCES).index(name)}"
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (sweep.place / f"{module}.py").write_text(SOURCES[name])
    sweep("cost", "--model", f"{module}:build", names=[module, "plan", "the imported code"], loud=True)


LOCKED = ("/proc", "/sys", "pipe", "to-pipe", "file", "file/below", "link", "loop", "x" * 300, "a/b/c/d", ".")


@pytest.fixture
def places(sweep: Sweep) -> Sweep:
    """Return a sweep whose folder has files, links and pipes to write over."""
    (sweep.place / "file").write_text("mine")
    (sweep.place / "link").symlink_to("gone")
    os.mkfifo(sweep.place / "pipe")
    (sweep.place / "to-pipe").symlink_to("pipe")
    (sweep.place / "loop").symlink_to("loop")
    save(pixels(24, 28), sweep.place / "hr" / "a.png")
    return sweep


@pytest.mark.parametrize("out", [f"{place}{below}" for place in LOCKED for below in ("", "/new")])
def test_run_folders_that_cannot_be_made(places: Sweep, out: str) -> None:
    places("quantize", *GONE, "--out", out, names=["--out", "gone.pth", out])


@pytest.mark.parametrize("out", LOCKED)
def test_files_that_cannot_be_written(places: Sweep, runs: Runs, out: str) -> None:
    makes = ["link", "gone", "loop", "file"]
    places("evaluate", runs("paper"), "--data", "hr", "--csv", out, names=["--csv", out], makes=makes)
    places("analyze", runs("paper"), "--by", "stage", "--patches", "1", "--images", "gone", "--out", out)


@pytest.mark.parametrize("out", LOCKED)
def test_pictures_that_cannot_be_written(places: Sweep, out: str) -> None:
    quality = {"psnr": 30, "noise": 1}
    part = {"kind": "stage", "name": "head", "alone": quality, "left_float": {"psnr": 31, "noise": 1}}
    analysis = {"parts": [part], "quantized": {"psnr": 29, "noise": 1}}
    (places.place / "a.json").write_text(json.dumps(analysis))
    places("plot", "a.json", "--out", out, makes=["a", "x"], names=[out, "--out"])
