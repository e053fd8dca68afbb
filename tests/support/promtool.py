"""promtool, which reads rules as Prometheus does: the one installed, else the one of the distribution's package."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "prometheus"


class Missing(Exception):
    """There is none, and why."""


def promtool(cache: Path) -> str:
    """Its path. The package is unpacked, not installed, once into `cache`: that needs no rights. Raises Missing."""
    if found := shutil.which("promtool"):
        return found
    kept = cache / "promtool"
    if not kept.exists():
        _unpack(kept)
    return str(kept)


def _unpack(to: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Missing(f"no promtool, and no apt-get to fetch it with: install {PACKAGE}")
    with TemporaryDirectory(dir=to.parent) as folder:  # two test processes may come here at once: the file moves as one
        _run(folder, "apt-get", "download", PACKAGE)
        (package,) = Path(folder).glob("*.deb")
        _run(folder, "dpkg", "-x", str(package), "unpacked")
        os.replace(Path(folder, "unpacked", "usr", "bin", "promtool"), to)


def _run(folder: str, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90)
    if done.returncode:
        why = f"`{' '.join(command)}` failed: {done.stderr.strip()}"
        raise Missing(f"no promtool: {why}. Install {PACKAGE}, or call `apt-get update` first")
