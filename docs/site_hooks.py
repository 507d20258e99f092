"""Hooks of the site: the README is its home page, and links to files outside of the documents lead to the repository.

`mkdocs.yml` names this file, and `make site` builds the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"index.md": "README.md", "changes.md": "CHANGELOG.md"}
"""Pages of the site that are files of the repository's root."""
WIDE = "---\nhide: [navigation]\n---\n"
LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of the folder of documents."""
    for page, source in OUTSIDE.items():
        text = _linked((ROOT / source).read_text(encoding="utf-8"), "", config)
        files.append(File.generated(config, page, content=f"{WIDE}{text}"))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, **_: Any) -> str:
    """Return a page with links that lead out of the folder of documents to the repository."""
    uri = page.file.src_uri
    return markdown if uri in OUTSIDE else _linked(markdown, posixpath.join("docs", posixpath.dirname(uri)), config)


def _linked(markdown: str, folder: str, config: MkDocsConfig) -> str:
    """Rewrite the links of a page that lies in a folder of the repository."""

    def rewritten(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        anchor = link[2] or ""
        pages = {source: page for page, source in OUTSIDE.items()}
        if path in pages:
            return f"]({posixpath.relpath(pages[path], folder.removeprefix('docs').strip('/') or '.')}{anchor})"
        if path.startswith("docs/"):
            return link[0] if folder else f"]({path.removeprefix('docs/')}{anchor})"
        return f"]({config.repo_url}/blob/main/{path}{anchor})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)
