"""Draw the badges of the README from pyproject.toml, so that they show without a network.

python docs/badges.py
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "badges"
PYTHON = "Programming Language :: Python :: "
CHARACTER, MARGIN, HEIGHT = 7, 12, 20
"""Widths and the height in pixels."""


def badges() -> Mapping[str, str]:
    """Return the SVG of each badge by the name of its file."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classifiers: list[str] = project["classifiers"]
    versions = [line.removeprefix(PYTHON) for line in classifiers if line.startswith(PYTHON)]
    drawn = {
        "python": _badge("python", f"{versions[0]} to {versions[-1]}"),
        "license": _badge("license", project["license"]),
    }
    if "Typing :: Typed" in classifiers:
        drawn["typed"] = _badge("types", "strict")
    return {f"{name}.svg": svg for name, svg in drawn.items()}


def _badge(label: str, value: str) -> str:
    left, right = (len(text) * CHARACTER + MARGIN for text in (label, value))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT}" role="img" '
        f'aria-label="{label}: {value}">\n'
        f'<rect width="{left + right}" height="{HEIGHT}" rx="3" fill="#555"/>\n'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v{HEIGHT - 6}a3 3 0 0 1-3 3h-{right - 3}z" fill="#0072b2"/>\n'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">\n'
        f'<text x="{left / 2:g}" y="14">{label}</text>\n'
        f'<text x="{left + right / 2:g}" y="14">{value}</text>\n'
        "</g>\n</svg>\n"
    )


def main() -> None:
    """Write all badges."""
    FOLDER.mkdir(exist_ok=True)
    for name, svg in badges().items():
        (FOLDER / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
