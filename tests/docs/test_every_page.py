"""Every snippet that a user may copy is run by a test, every link leads somewhere, and the README stays short."""

import importlib
import re

import pytest

import redis_router
import redis_router.testing
from tests.support.documents import PAGES, ROOT, TAKEN, rows, snippets

TESTS = sorted(path.stem for path in (ROOT / "tests" / "docs").glob("test_*.py"))
PAGES_OF_THEIR_OWN = {
    "docs/metrics.md": "test_metrics.py",
    "docs/operations.md": "test_operations.py",
    "docs/performance.md": "test_performance.py",
}
"""Their tests see to it that every snippet is tested."""
NOT_RUN = {
    ("README.md", "pip install -e '.[demo]' && redis-router demo"): "tests/process/test_demo.py runs it",
    ("README.md", "pip install -e '.[test]' && pytest"): "this suite; .ci/run runs it as it stands",
    ("docs/tracing.md", "pip install -e '.[otel]'"): "installing: the tests' extra has it",
    ("CONTRIBUTING.md", ""): "for contributors: what .ci/run does, and what changes the repository",
    ("docs/how-it-works.md", ""): "pictures and excerpts of how the library works, nothing to copy",
}
"""A snippet's page and beginning, and why no test runs it."""


@pytest.fixture(scope="module", autouse=True)
def _all_tests_are_imported():
    """A test module takes its snippets when it is imported."""
    for name in TESTS:
        importlib.import_module(f"tests.docs.{name}")


def test_every_snippet_is_run_or_excused():
    """A new one is noticed here."""
    excused = tuple(NOT_RUN)
    unknown = [
        each
        for each in snippets()
        if each not in TAKEN
        and each.page not in PAGES_OF_THEIR_OWN
        and not any(each.page == page and each.text.startswith(begin) for page, begin in excused)
    ]
    assert unknown == []


def test_every_excuse_is_needed():
    """None outlives its snippet."""
    for page, begin in NOT_RUN:
        if page in PAGES:
            assert not begin or [each for each in snippets() if each.page == page and each.text.startswith(begin)]
    for page, test in PAGES_OF_THEIR_OWN.items():
        assert page not in PAGES or (ROOT / "tests" / "docs" / test).exists()


def test_the_readme_is_short():
    """It sells and starts; docs/ teaches."""
    assert len(PAGES["README.md"].splitlines()) < 150


def anchors(text):
    """Of the headings of a page, as GitHub and MyST make them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head).lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """To a file of the repository and, where a heading is named, to that."""
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{page}: {link}"


def test_tests_that_pages_name_exist():
    """`test_file.py::Class::test` in a page is one that can be run."""
    texts = {path.name: path.read_text() for path in ROOT.glob("tests/**/test_*.py")}
    named = {each for text in PAGES.values() for each in re.findall(r"`(test_\w+\.py)((?:::\w+)*)`", text)}
    assert len(named) >= 40
    for file, path in named:
        for name in path.split("::")[1:]:
            assert re.search(rf"^\s*(?:class|def|async def) {name}\b", texts[file], re.MULTILINE), f"{file}{path}"


def test_the_reference_has_what_a_class_inherits_from_us():
    """A router's life and operators' calls are methods of classes that a user never sees."""
    for name in redis_router.__all__:
        each = getattr(redis_router, name)
        bases = [base for base in getattr(each, "__mro__", ())[1:] if base.__module__.startswith("redis_router.")]
        if bases and not issubclass(each, Exception):
            assert re.search(rf"redis_router\.{name}\n   :inherited-members:\n", PAGES["docs/api.md"]), name


def test_the_reference_has_every_public_name():
    """And no other."""
    listed = re.findall(r"^\.\. auto\w+:: redis_router\.(\w+)(?:\(\))?$", PAGES["docs/api.md"], re.MULTILINE)
    assert sorted(listed) == sorted(redis_router.__all__)
    listed = re.findall(r"^\.\. autofunction:: redis_router\.testing\.(\w+)$", PAGES["docs/testing.md"], re.MULTILINE)
    assert sorted(listed) == sorted(redis_router.testing.__all__)
    told = [name for row in rows(PAGES["docs/testing.md"]) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted(redis_router.testing.__all__)
