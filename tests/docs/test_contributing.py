"""CONTRIBUTING.md and SECURITY.md name files that there are and commands that run."""

import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from redis_router import Probe, Router
from redis_router.errors import InvalidArgument
from redis_router.worker.endpoints import MOST_CONNECTIONS

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
ELSEWHERE = {"lua/verb.lua"}
"""A name that stands for any."""
FOLDERS = ("redis_router/", "lua/", "tests/", "docs/", "deploy/", "benchmarks/", ".ci/")
PAGES = {f"docs/{name}.md" for name in ("choosing", "configuration", "guarantees", "how-it-works", "keys")}
COMMANDS = [cells[1] for cells in re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", CONTRIBUTING, re.MULTILINE)]


@pytest.mark.parametrize("text", [CONTRIBUTING, SECURITY], ids=["CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_it_names_is_there(text):
    """In backticks, and as links."""
    named = set(re.findall(r"`([^`\s]+)`", text)) | set(re.findall(r"\]\(([^)#]+)", text))
    for name in sorted(named):
        if name.startswith(FOLDERS) and name not in ELSEWHERE | PAGES:
            assert list(ROOT.glob(name.rstrip("/"))), name


def test_every_name_in_the_steps_is_in_the_code():
    """Classes, functions and variables that a contributor is sent to."""
    paths = [path for folder in ("redis_router", "lua", "tests") for path in (ROOT / folder).rglob("*.*")]
    source = "".join(path.read_text() for path in paths if path.suffix in (".py", ".lua"))
    for name in ("CircuitConfig", "_check_together", "_config_of", "looking", "rules", "optional", "FIELDS", "SCHEMA"):
        assert f"`{name}" in CONTRIBUTING
        assert re.search(rf"\b{name}\b", source), name


def test_the_folders_are_those_of_the_package():
    """One line each, in the order of the contract that import-linter checks."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each["type"] == "layers"]
    table = CONTRIBUTING.partition("## The house")[2].partition("## How")[0]
    lines = re.findall(r"^\| ((?:`[\w./]+`(?:, )?)+) \|", table, re.MULTILINE)
    named = [name.rstrip("/").removesuffix(".py") for line in lines for name in re.findall(r"`([\w./]+)`", line)]
    assert named == [layer for layer in layers if layer in named]
    folders = {path.parent.name for path in (ROOT / "redis_router").glob("*/__init__.py")}
    assert folders <= set(named)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command):
    """Those of ours with `--help` behind them: what stands before it is checked. Tools are in an extra."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    python = {"cwd": ROOT, "env": env, "capture_output": True, "text": True, "timeout": 100}
    program, *arguments = shlex.split(command)
    if command == ".ci/run":
        assert os.access(ROOT / command, os.X_OK)
    elif program == "ruff":
        lint = re.search(r"^lint = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
        for line in command.split(" && "):
            assert line in (ROOT / ".ci" / "run").read_text()
            tool = {"lint-imports": "import-linter"}.get(shlex.split(line)[0], shlex.split(line)[0])
            assert f'"{tool}>' in lint
    elif program == "pytest":
        done = subprocess.run([sys.executable, "-m", "pytest", *arguments, "--collect-only"], **python)
        assert done.returncode == 0, done.stdout
    elif program == "redis-router":
        done = subprocess.run([sys.executable, "-m", "redis_router", *arguments, "--help"], **python)
        assert done.returncode == 0, done.stderr
    else:
        words = [word for word in arguments if word != ">" and not word.startswith("docs/")]
        ends_by_itself = "benchmarks.page" in words
        done = subprocess.run([sys.executable, *words, *([] if ends_by_itself else ["--help"])], **python)
        assert done.returncode == 0, done.stderr


def test_the_test_command_is_the_readmes():
    """One spelling."""
    assert "\npip install -e '.[test]' && pytest\n" in CONTRIBUTING
    assert "\npip install -e '.[test]' && pytest\n" in (ROOT / "README.md").read_text()


def test_the_probe_of_the_security_page_keeps_its_secret():
    """With the variable it is a probe; without, it is refused."""
    (headers,) = re.findall(r"headers=(\{.*?\})\)", SECURITY)
    assert "${OPENAI_API_KEY}" in headers
    Probe("https://api.openai.com/v1/models", headers=eval(headers))
    with pytest.raises(InvalidArgument, match="environment variable"):
        Probe("https://api.openai.com/v1/models", headers={"Authorization": "Bearer sk-secret"})


def test_the_numbers_of_the_security_page_are_those_of_the_code():
    """Connections, and how long a provider's word is believed."""
    assert f"more than {MOST_CONNECTIONS} connections" in SECURITY
    most = inspect.signature(Router).parameters["rate_limit_cooldown_max"].default
    assert f"`rate_limit_cooldown_max` ({most:g} s)" in SECURITY


def test_ci_runs_what_needs_litellm():
    """The tests' extra has no LiteLLM, so that the suite skips them: `.ci/run` has an environment where none is."""
    step = (ROOT / ".ci" / "run").read_text()
    assert "REDIS_ROUTER_NEEDS_LITELLM=" in step
    assert "-m pytest -n 2 $tests_of_litellm" in step
    for each in re.search('tests_of_litellm="(.+)"', step)[1].split():
        assert (ROOT / each).exists()
    assert list((ROOT / "tests" / "integrations" / "litellm").glob("test_*.py"))
