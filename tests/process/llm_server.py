"""Moved to `tests.support.http`; here until tests/unit/test_readme.py imports it from there."""

from tests.support.http import ANSWER, llm_server

__all__ = ["ANSWER", "llm_server"]
