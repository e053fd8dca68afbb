"""Every line of WARNING or above that the library can log, found in its source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import redis_router

PACKAGE = Path(redis_router.__file__).parent
LEVELS = {"warning": "WARNING", "error": "ERROR", "exception": "ERROR", "critical": "CRITICAL"}
LOGS = {"log", "news"}
"""What the library logs by: `log` of runtime/log.py, and a replica's `News`."""
OTHERS = {"sys", "outcome"}
"""What has a method of such a name and is no log."""
NEWS = PACKAGE / "replica" / "news.py"


def lines() -> dict[str, str]:
    """A line, with … for each value in it -> its level. The demo is left out."""
    paths = (path for path in sorted(PACKAGE.rglob("*.py")) if "demo" not in path.parts)
    return {text: level for path in paths for text, level in _lines_of(path)}


def _lines_of(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text())
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in ast.walk(scope):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            logs_by = ast.unparse(call.func.value).rpartition(".")[2]
            if call.func.attr in LEVELS and logs_by not in OTHERS:
                assert logs_by in LOGS, f"{path.name} {call.lineno}: is that a log?"
                yield _text(call.args[0], scope, tree), LEVELS[call.func.attr]
            elif path == NEWS and call.func.attr == "_note" and "WARNING" in ast.unparse(call):
                yield _text(call.args[-1], scope, tree) + "; …", "WARNING"


def _text(node: ast.expr, *scopes: ast.AST) -> str:
    """The text of an argument: written there, or the value of a name that is assigned in one of these."""
    if isinstance(node, ast.Name):
        assigned = (each for scope in scopes for each in ast.walk(scope) if isinstance(each, ast.Assign))
        return _text(next(each.value for each in assigned if ast.unparse(each.targets[0]) == node.id))
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return re.sub(r"%[-.\d]*[srdgf]", "…", str(ast.literal_eval(node)))
