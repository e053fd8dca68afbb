"""What users read, page by page, and its snippets: a test that takes one runs it; `TAKEN` remembers which were."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md")
    if path.exists()
}
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAKEN: set["Snippet"] = set()
"""What tests have asked for: those of a test module when it is imported."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of code, or of what a command prints, in a page."""

    page: str
    kind: str
    text: str


def snippets() -> Iterator[Snippet]:
    """All of them, page by page. Directives of the generator are none."""
    for page, text in PAGES.items():
        for kind, block in _BLOCK.findall(text):
            if not kind.startswith("{"):
                yield Snippet(page, kind, block)


def snippet(page: str, words: str) -> str:
    """The one snippet of a page that holds these words."""
    found = [each for each in snippets() if each.page == page and words in each.text]
    assert len(found) == 1, f"{page} has {len(found)} snippets with {words!r}"
    TAKEN.add(found[0])
    return found[0].text


def command(page: str, words: str) -> str:
    """One that a page gives: a block of its own, or among its text."""
    assert words in PAGES[page], f"{page} has no {words!r}"
    TAKEN.update(each for each in snippets() if each.page == page and each.text.strip() == words)
    return words


def consoles(page: str) -> list[tuple[str, str]]:
    """The commands of a page in their order, each with what the page says that it prints."""
    shown = [each for each in snippets() if each.page == page and each.kind == "console"]
    TAKEN.update(shown)
    found = []
    for each in shown:
        for part in re.split(r"^\$ ", each.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def said_once(pattern: str) -> str:
    """What the pattern's group finds in the pages; where several say it, they say the same."""
    (said,) = {found for text in PAGES.values() for found in re.findall(pattern, text, re.MULTILINE)}
    return str(said)


def section(page: str, heading: str) -> str:
    """The text from this heading up to the next one of its level or above."""
    text = PAGES[page]
    (begin,) = re.finditer(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    end = re.search(rf"^#{{1,{len(begin[1])}}} ", text[begin.end() :], re.MULTILINE)
    return text[begin.end() :][: end.start() if end else None]


def rows(text: str) -> list[list[str]]:
    """The cells of each line of its tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = [number for number, line in enumerate(lines) if set(line) <= set("|-: ")]
    return [row for number, row in enumerate(found) if number not in rules and number + 1 not in rules]
