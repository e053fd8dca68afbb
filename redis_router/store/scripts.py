"""The Lua scripts: found beside the package (installed) or above it (a checkout), each behind the common prelude."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
FOLDERS = (_PACKAGE / "lua", _PACKAGE.parent / "lua")


@dataclass(frozen=True, slots=True)
class Script:
    """One script as Redis gets it."""

    name: str
    text: str
    sha: str


def folder() -> Path:
    """Where the scripts lie. Raises FileNotFoundError when the installation lacks them."""
    for path in FOLDERS:
        if (path / "_prelude.lua").is_file():
            return path
    raise FileNotFoundError(
        f"no _prelude.lua in {' or '.join(map(str, FOLDERS))}: the installation is incomplete, reinstall it"
    )


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua`, ready for EVALSHA."""
    text = (folder() / "_prelude.lua").read_text("utf-8") + (folder() / f"{name}.lua").read_text("utf-8")
    return Script(name, text, sha_of(text))


def sha_of(text: str) -> str:
    """The name under which Redis caches a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
