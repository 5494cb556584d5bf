"""Hooks of mkdocs: the pages at the root of the repository are pages of the site too, and links keep their meaning.

Pages are written to be read in the repository: `docs/amc.md` links to `../README.md`, and that to `docs/amc.md`. In
the site all pages lie in one folder, and the README is the first one. A link to another file of the repository,
such as an example, leads to a copy of it.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Path in the repository -> path in the site, of pages that do not lie in docs/ or have another name in the site.
MOVED = {name: name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")} | {"docs/index.md": "pages.md"}
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    files.remove(files.src_uris["index.md"])
    for source, name in [*MOVED.items(), *sorted(set(_linked_files()))]:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def _linked_files() -> Iterator[tuple[str, str]]:
    """Files of the repository, none of them pages, that some page links to: each with its path in the site."""
    for page in [ROOT / name for name in MOVED] + sorted((ROOT / "docs").glob("*.md")):
        for link in LINK.finditer(page.read_text()):
            target = _in_repository(page, link[1])
            if not target.startswith("docs/") and target not in MOVED and (ROOT / target).is_file():
                yield target, _in_site(target)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    name = page.file.src_uri
    source = next((ROOT / source for source, moved in MOVED.items() if moved == name), ROOT / "docs" / name)
    return LINK.sub(lambda link: f"]({_in_site(_in_repository(source, link[1]))}{link[2] or ''})", markdown)


def _in_repository(page: Path, link: str) -> str:
    """The path from the root of the repository that a link of a page leads to."""
    return posixpath.normpath(os.path.relpath(page.parent / link, ROOT))


def _in_site(path: str) -> str:
    if path in MOVED:
        return MOVED[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{path}.txt"  # shown, not run
