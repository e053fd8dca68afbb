"""chromium, in which the tests open the page: the one installed, else the one of the distribution's packages.

These are unpacked, not installed, with all that they need: that takes no rights and leaves the machine as it is. The
folder lies outside of the repository, so a new checkout finds it again. `python tests/support/browser.py` does it now
and prints where the browser is; it needs nothing but Python.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
BINARY = Path("usr", "lib", "chromium", "chromium-headless-shell")
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
<include ignore_missing="yes">/etc/fonts/fonts.conf</include><dir>{fonts}</dir><cachedir>{cache}</cachedir>
</fontconfig>
"""


class Missing(Exception):
    """There is none, and why."""


@dataclass(frozen=True, slots=True)
class Browser:
    """Its path, and the variables that it is started with."""

    path: str
    env: dict[str, str]

    def launch(self, playwright: Any) -> Any:
        """Start it; `playwright` is what `sync_playwright` gives."""
        env = {**os.environ, **self.env}
        return playwright.chromium.launch(executable_path=self.path, env=env, args=["--no-proxy-server"])


def folder() -> Path:
    """Where it is unpacked."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "redis_router-tests", "chromium")


def browser() -> Browser:
    """One that is here, or is fetched now: about 100 MB, once. Raises Missing."""
    for name in NAMES:
        if found := shutil.which(name):
            return Browser(found, {})
    kept = folder()
    if not (kept / BINARY).exists():
        _unpack(kept)
    # its libraries lie in folders of their own, as installing would have told the loader
    libraries = sorted({str(path.parent) for path in (kept / "usr" / "lib").rglob("*.so*")})
    env = {"LD_LIBRARY_PATH": ":".join(libraries), "FONTCONFIG_FILE": str(kept / "fonts.conf")}
    return Browser(str(kept / BINARY), env)


def _unpack(to: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Missing(f"no chromium, and no apt-get to fetch it with: install one of {', '.join(NAMES)}")
    to.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=to.parent) as made:  # two test processes may come here at once: the folder moves as one
        root = Path(made, "root")
        _run(made, "apt-get", "download", *_needed(made))
        for package in sorted(Path(made).glob("*.deb")):
            _run(made, "dpkg", "-x", str(package), str(root))
        (root / "fonts.conf").write_text(FONTS.format(fonts=to / "usr" / "share" / "fonts", cache=to / "fonts"))
        try:
            root.rename(to)
        except OSError:
            if not (to / BINARY).exists():
                raise


def _needed(where: str) -> list[str]:
    """What installing would install: the packages, and those that they need and that are not here."""
    command = ("apt-get", "-s", "install", "--no-install-recommends", *PACKAGES)
    try:
        said = _run(where, *command)
    except Missing:
        if os.geteuid() != 0:
            raise
        _run(where, "apt-get", "update")  # a new machine has no lists yet
        said = _run(where, *command)
    return [line.split()[1] for line in said.splitlines() if line.startswith("Inst ")]


def _run(where: str, *command: str) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300)
    if done.returncode:
        why = f"`{' '.join(command[:3])} …` failed: {done.stderr.strip()[-500:]}"
        raise Missing(f"no chromium: {why}. Install one of {', '.join(NAMES)}, or call `apt-get update` first")
    return done.stdout


if __name__ == "__main__":
    try:
        print(browser().path)
    except Missing as missing:
        sys.exit(str(missing))
