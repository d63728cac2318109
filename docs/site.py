"""Hook of mkdocs: files of the repository that pages link to become part of the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
#: A link out of docs/ to a file of the repository, as it works in a checkout.
LINK = re.compile(r"\]\(\.\./([\w./-]+)\)")


def on_files(files: Files, config) -> Files:
    """Add every file that a page links to."""
    linked = set()
    for page in files.documentation_pages():
        linked |= set(LINK.findall(Path(page.abs_src_path).read_text(encoding="utf-8")))
    for path in sorted(linked):
        if not (ROOT / path).is_file():
            raise FileNotFoundError(f"a page links to ../{path}, which is not in the repository")
        # Pages of its own kind would be rendered, and python excluded: as text, it is shown.
        files.append(File.generated(config, f"{path}.txt", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Point the links to where the files now are."""
    return LINK.sub(r"](\1.txt)", markdown)
