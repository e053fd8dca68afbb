"""The Lua scripts: found beside the package (installed) or above it (a checkout), behind what all have in common."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
FOLDERS = (_PACKAGE / "lua", _PACKAGE.parent / "lua")
COMMON = ("_record", "_overrides", "_capacity", "_circuit", "_announce")
"""In front of every script, in this order: each knows those before it."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script as Redis gets it."""

    name: str
    text: str
    sha: str


def folder() -> Path:
    """Where the scripts lie. Raises FileNotFoundError when the installation lacks them."""
    for path in FOLDERS:
        if (path / f"{COMMON[0]}.lua").is_file():
            return path
    raise FileNotFoundError(
        f"no {COMMON[0]}.lua in {' or '.join(map(str, FOLDERS))}: the installation is incomplete, reinstall it"
    )


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua`, ready for EVALSHA."""
    text = "".join((folder() / f"{part}.lua").read_text("utf-8") for part in (*COMMON, name))
    return Script(name, text, sha_of(text))


def sha_of(text: str) -> str:
    """The name under which Redis caches a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
