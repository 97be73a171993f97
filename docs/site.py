"""What the site adds to docs/: the README, the changelog and the chart's page, and every file that a page links to."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
ADDED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "helm/README.md": "chart.md",
}
"""Pages that lie outside of docs/, by their place in the repository, and their names in the site."""

_LINK = re.compile(r"\[(?P<text>[^][]*)\]\((?!\w+:|#)(?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for place, name in ADDED.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / place)))
    for linked in sorted({target for page in files.documentation_pages() for target in _linked(page)}):
        files.append(File.generated(config, _copied(linked), abs_src_path=str(ROOT / linked)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that hold in the site, where they hold in the repository."""

    def moved(link: re.Match[str]) -> str:
        meant = _meant(page.file, link["target"])
        name = _name(meant) or (_copied(meant) if (ROOT / meant).is_file() else None)
        if name is None:  # a folder, or what is not there
            return link["text"] if (ROOT / meant).is_dir() else link[0]
        target = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{link['text']}]({target}{link['anchor'] or ''})"

    return _LINK.sub(moved, markdown)


def _linked(page: File) -> list[str]:
    """The files outside of the site that a page links to, by their places in the repository."""
    targets = [_meant(page, link["target"]) for link in _LINK.finditer(page.content_string)]
    return [target for target in targets if _name(target) is None and (ROOT / target).is_file()]


def _meant(page: File, target: str) -> str:
    """The place in the repository that a link of a page leads to; a folder stands for its README."""
    place = next((place for place, name in ADDED.items() if name == page.src_uri), f"docs/{page.src_uri}")
    meant = posixpath.normpath(posixpath.join(posixpath.dirname(place), target)) if target else place
    return f"{meant}/README.md" if (ROOT / meant / "README.md").is_file() and (ROOT / meant).is_dir() else meant


def _name(place: str) -> str | None:
    """The name in the site of a page by its place in the repository; None for what is none."""
    if place in ADDED:
        return ADDED[place]
    return place.removeprefix("docs/") if place.startswith("docs/") and (ROOT / place).is_file() else None


def _copied(place: str) -> str:
    """The name of a file that is no page; as a text where it would become one."""
    return f"files/{place}.txt" if place.endswith(".md") else f"files/{place}"
