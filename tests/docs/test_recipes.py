"""docs/recipes.md: its programs are the files of examples/, and run as they are where their framework is installed."""

import os
import subprocess
import sys

import pytest

from tests.docs.conftest import forget, patient
from tests.integrations.recipes.conftest import needs
from tests.support.documents import ROOT, snippet
from tests.support.http import ANSWER, llm_server

PAGE = "docs/recipes.md"
RECIPES = {
    "pydantic_ai_failover.py": ("pydantic_ai", snippet(PAGE, "from pydantic_ai import Agent")),
    "langchain_failover.py": ("langchain_openai", snippet(PAGE, "from langchain_openai import ChatOpenAI")),
    "llama_index_failover.py": ("llama_index", snippet(PAGE, "from llama_index.llms.openai import OpenAI")),
}
TEXT = "".join(ANSWER)
SAID = {"llama_index_failover.py": f"It rains in Bergen.\n{TEXT}"}
"""What one prints where it is more than an answer."""


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_shows_the_file(name):
    """Word for word, and in less than 40 lines."""
    text = (ROOT / "examples" / name).read_text()
    assert RECIPES[name][1] == text
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs(name, one_real):
    """As a user runs it, on Redis; the first of its two providers is down, and the model calls the tool."""
    needs(RECIPES[name][0])
    with llm_server() as first, llm_server() as second:
        first.faults.extend([(503, {})] * 9)
        first.tool = second.tool = ("weather", {"city": "Bergen"})
        places = {"OPENAI_URL": f"{first.url}/v1", "AZURE_URL": f"{second.url}/v1"}
        keys = {"OPENAI_API_KEY": "key-of-openai", "AZURE_API_KEY": "key-of-azure"}
        env = {**os.environ, **places, **keys, "REDIS_ROUTER_URL": patient(one_real.url), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "examples" / name)]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90)
        finally:
            forget(one_real.url)
    assert (done.returncode, done.stdout.strip()) == (0, SAID.get(name, TEXT)), done.stderr
    assert {headers["authorization"] for _, headers in second.heads} == {"Bearer key-of-azure"}
    assert len(second.asked) == 2
