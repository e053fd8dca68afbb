"""docs/from-the-original.md: each feature of the original names the test that shows it."""

import re

from tests.support.documents import PAGES

ROWS = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", PAGES["docs/from-the-original.md"], re.MULTILINE)


def test_each_feature_names_its_test():
    """That it exists is checked with those of all pages: tests/docs/test_every_page.py."""
    head, *rows = ROWS
    assert head == ("The original", "Here", "Shown by")
    assert len(rows) >= 15
    for feature, _, shown_by in rows:
        assert re.search(r"`test_\w+\.py(::\w+)*`", shown_by), feature
