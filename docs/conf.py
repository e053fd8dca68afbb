"""How the documents are built: `sphinx-build -W --keep-going -b html docs <folder>`."""

# Why Sphinx: it makes the reference from the docstrings, checks every link between pages, and can treat each doubt as
# an error. MyST lets the pages be Markdown, which GitHub shows as well. All three packages have frequent releases. The
# usual other choice, Material for MkDocs, is maintained no longer, and its successor is not at 1.0 yet.

import re
from importlib.metadata import version as installed
from typing import Any

project = "redis_router"
author = "the authors of redis_router"
project_copyright = "2026, the authors of redis_router"
release = version = installed("redis-llm-router")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"redis_router {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
default_role = "code"
toc_object_entries_show_parents = "hide"

_IN_TWO_COLUMNS = re.compile(r"(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*) {2,}(?P<text>\S.*)")


def _columns_to_lists(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings give names and what they mean in two columns, to be read in an editor: here they become a list."""
    found: list[str] = []
    in_list = False
    for line in lines:
        item = _IN_TWO_COLUMNS.fullmatch(line)
        if item:
            found += [] if in_list else [""]
            found += [f"``{item['names']}``", f"    {item['text']}"]
            in_list = True
        elif in_list and line.startswith("  "):
            found.append(f"    {line.strip()}")
        else:
            in_list = False
            found.append(line)
    lines[:] = found


_MARKDOWN_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+\.md)\)")


def _links_to_downloads(app: Any, page: str, source: list[str]) -> None:
    """Markdown outside this folder is no page here: what GitHub shows as a link becomes a file to download."""
    source[0] = _MARKDOWN_OUTSIDE.sub(r"{download}`\1 <\2>`", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _links_to_downloads)
    app.connect("autodoc-process-docstring", _columns_to_lists)
