"""Hook of mkdocs: files of the repository that pages link to become part of the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent


def link(source: str) -> re.Pattern:
    """A link of the page ``source`` out of docs/ to a file of the repository."""
    return re.compile(rf"\]\({re.escape('../' * (source.count('/') + 1))}(\w[\w./-]*)\)")


def on_files(files: Files, config) -> Files:
    """Add every file that a page links to."""
    linked = set()
    for page in files.documentation_pages():
        text = Path(page.abs_src_path).read_text(encoding="utf-8")
        linked |= set(link(page.src_uri).findall(text))
    for path in sorted(linked):
        if not (ROOT / path).is_file():
            raise FileNotFoundError(f"a page links to ../{path}, which is not in the repository")
        # Pages of its own kind would be rendered, and python excluded: as text, it is shown.
        files.append(File.generated(config, f"{path}.txt", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Point the links to where the files now are."""
    source = page.file.src_uri
    return link(source).sub(rf"]({'../' * source.count('/')}\1.txt)", markdown)
