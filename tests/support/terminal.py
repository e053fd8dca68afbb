"""A command on a terminal, as somebody sees it: what stands on the screen, and what its keys do."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import Self

import pyte

SECONDS = 30.0


class Terminal:
    """Runs a command on a pseudo-terminal; `with` ends it."""

    def __init__(
        self, command: Sequence[str], *, columns: int = 80, lines: int = 24, env: dict[str, str] | None = None
    ) -> None:
        self._primary, secondary = pty.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen = pyte.HistoryScreen(columns, lines, history=1_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        """All that the command wrote."""
        self.process = subprocess.Popen(
            command,
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
            env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines), **(env or {})},
        )
        self.settings = termios.tcgetattr(secondary)
        self._secondary = secondary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        os.close(self._secondary)
        os.close(self._primary)

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._primary, keys.encode())

    def read(self, seconds: float = 0.03) -> bool:
        """Show what was written meanwhile; False where that was nothing."""
        if not select.select([self._primary], [], [], seconds)[0]:
            return False
        written = os.read(self._primary, 65_536)
        self.raw += written
        self._stream.feed(written)
        return True

    def until(self, condition: Callable[[str], object], what: str = "") -> str:
        """Wait until this is so of the screen, between two frames; the screen."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if not self.read() and condition(self.text):
                return self.text
        raise AssertionError(f"not in {SECONDS:g} s: {what}\n{self.text}")

    def ends(self) -> int:
        """Wait until it ended; its exit code."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline, f"it does not end\n{self.text}"
        while self.read():
            pass
        return int(self.process.returncode)

    def is_as_before(self) -> bool:
        """Has the terminal the settings that it had before the command?"""
        return termios.tcgetattr(self._secondary) == self.settings
