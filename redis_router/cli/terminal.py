"""What the command line prints: a reader may leave before the end, and a terminal may lack characters."""

import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self, TextIO

from redis_router.errors import RouterError
from redis_router.operate.words import lasted as lasted
from redis_router.operate.words import printable as printable

MOST_WIDE = 80
"""Characters of a cell by which a column is measured: names and hosts have up to 64, what a hand wrote may be long."""


def prepare() -> None:
    """From now on what stdout or stderr cannot show is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print to stdout; where its reader has gone, go on without one. Raises RouterError where it cannot be written."""
    _print(text, sys.stdout)


def complain(text: str) -> None:
    """The same, to stderr."""
    _print(text, sys.stderr)


def confirm(danger: str, *, is_meant: bool) -> None:
    """Ask on a terminal whether to go on. Raises RouterError where nobody says so; `is_meant`: somebody did before."""
    if is_meant:
        return
    if sys.stdin is not None and sys.stdin.isatty():
        complain(printable(f"{danger}. Go on? [y/N]"))
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise RouterError(f"{printable(danger)}, so nothing was done; --yes does it all the same")


class EndedBySignals:
    """Ctrl-C, SIGTERM and SIGHUP end the command as an error would: what it must put right, it puts right.

    What a finalizer raises, Python prints and forgets. So a signal that meets one ends the command at its next `rest`.
    """

    def __init__(self) -> None:
        self._came = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[each] = signal.signal(each, self._leave)
        return self

    def __exit__(self, *exc: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def rest(self, seconds: float) -> None:
        """Sleep so long."""
        if self._came:
            raise SystemExit(128 + self._came)
        time.sleep(seconds)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self._came = number
        while frame is not None and frame.f_code.co_name != "__del__":
            frame = frame.f_back
        if frame is None:
            raise SystemExit(128 + number)


def finish() -> None:
    """Write what others left in buffers: the interpreter would show a traceback where that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            _give_up(stream)


def counted(number: int, thing: str) -> str:
    """1 setting, 2 settings."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells one below the other; one that is very long moves its own row alone."""
    lengths = [[len(row[column]) for row in rows] for column in range(len(rows[0]))]
    widths = [max((length for length in each if length <= MOST_WIDE), default=0) for each in lengths]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _print(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        _give_up(stream)
    except OSError as error:
        _give_up(stream)
        raise RouterError(f"cannot write the output: {error}") from None


def _give_up(stream: TextIO) -> None:
    """What still is in the buffer, and what follows, goes nowhere."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
