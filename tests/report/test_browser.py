"""The page in a real browser, where there is one: the slider moves, layers change, and nothing fails."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from srptq_plugin.report.page import render
from srptq_plugin.report.report import Report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
DARK = "--blink-settings=preferredColorScheme=0"
PROBE = """
<script>
const viewer = document.querySelector(".viewer"), slider = viewer.querySelector("input");
const shown = (side) => [...document.querySelectorAll(`.viewer img.${side}`)].map((image) => image.dataset.layer);
const clip = () => getComputedStyle(viewer.querySelector("img.right")).clipPath;
const before = {left: shown("left"), right: shown("right"), clip: clip()};
slider.value = 25;
slider.dispatchEvent(new Event("input"));
const moved = clip();
const box = viewer.getBoundingClientRect();
const at = {clientX: box.left + 0.75 * box.width, clientY: box.top + 9, pointerType: "mouse"};
slider.dispatchEvent(new PointerEvent("pointermove", at));
const pointed = clip();
document.querySelector('.choice input[name="left"][value="bicubic"]').click();
const label = viewer.querySelector(".of-left").textContent;
const channels = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
const images = [...document.images].map((image) => image.complete && image.naturalWidth > 0);
const overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const probed = {before, moved, pointed, left: shown("left"), label, channels, images, overflow};
const output = document.createElement("pre");
output.id = "probed";
output.textContent = JSON.stringify(probed);
document.body.append(output);
</script>
"""
Probe = Callable[..., Any]

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")


@pytest.fixture
def probe(report: Callable[[str, int], Report], tmp_path: Path) -> Probe:
    """Return a function that opens a page in the browser, uses it, and returns what it saw."""

    def opened(count: int, *flags: str, width: int = 1200) -> Any:
        path = tmp_path / "report.html"
        path.write_text(render(report("original", count)).replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
        own = (f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--enable-logging=stderr")
        command = [str(BROWSER), *FLAGS, *own, *flags, "--dump-dom", path.as_uri()]
        environment = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)  # noqa: S603
        assert "CONSOLE" not in done.stderr
        match = re.search(r'<pre id="probed">(.*?)</pre>', done.stdout, re.DOTALL)
        assert match, done.stderr
        return json.loads(unescape(match[1]))

    return opened


@pytest.mark.parametrize("count", [1, 2])
def test_the_slider_moves_and_layers_change(probe: Probe, count: int) -> None:
    seen = probe(count)
    left = "float-0" if count == 1 else "runtime-0"
    assert seen["before"]["left"] == [left] * 2
    assert seen["before"]["right"] == ["runtime-0" if count == 1 else "simulated-1"] * 2
    clips = [seen["before"]["clip"], seen["moved"], seen["pointed"]]
    assert [float(re.findall(r"[\d.]+", clip)[-1]) for clip in clips] == pytest.approx([50, 25, 75], abs=0.5)
    assert seen["left"] == ["bicubic"] * 2
    assert seen["label"] == "bicubic"
    assert all(seen["images"])


def test_both_color_schemes_are_served(probe: Probe) -> None:
    light, dark = probe(1)["channels"], probe(1, DARK)["channels"]
    assert min(light[:3]) > 200
    assert max(dark[:3]) < 60


@pytest.mark.parametrize("width", [500, 1600])
def test_no_window_is_too_narrow(probe: Probe, width: int) -> None:
    assert probe(2, width=width)["overflow"] == 0
