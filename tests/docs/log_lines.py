"""Every line of WARNING or above that the library can log, found in its source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import redis_router

PACKAGE = Path(redis_router.__file__).parent
LEVELS = {"warning", "error", "exception", "critical"}
LOGS = {"log", "news"}
"""What the library logs by: `log` of runtime/log.py, and a replica's `News`."""
NEWS = PACKAGE / "replica" / "news.py"


def lines() -> dict[str, set[str]]:
    """A line, with … for each value in it -> where it is logged. The demo is left out."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if "demo" not in path.parts:
            for text in _lines_of(path):
                found.setdefault(text, set()).add(str(path.relative_to(PACKAGE)))
    return found


def _lines_of(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for scope in functions:
        for call in ast.walk(scope):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr in LEVELS and ast.unparse(call.func.value).rpartition(".")[2] in LOGS:
                yield _text(call.args[0], scope, tree)
            elif path == NEWS and call.func.attr == "_note" and "WARNING" in ast.unparse(call):
                yield _text(call.args[-1], scope, tree) + "; …"


def _text(node: ast.expr, *scopes: ast.AST) -> str:
    """The text of an argument: written there, or the value of a name that is assigned in one of these."""
    if isinstance(node, ast.Name):
        (value,) = [
            each.value
            for scope in scopes
            for each in ast.walk(scope)
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == node.id
        ][:1]
        return _text(value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return re.sub(r"%[-.\d]*[srdgf]", "…", str(ast.literal_eval(node)))
