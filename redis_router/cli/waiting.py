"""`drain --wait`: until no call is under way, with a bar on a terminal, and lines elsewhere."""

import os
import shutil
import sys
import time
from collections.abc import Iterable

from redis_router.cli.terminal import complain, counted, lasted
from redis_router.overriding import Operator

LOOK_SECONDS = 0.25
"""So often replicas say how many calls they have under way."""
CLEAN_LOOKS = 3
"""A call that began just before the word was heard is told of by the last of so many."""
BAR = 24


def wait(operator: Operator, records: Iterable[str], seconds: float) -> bool:
    """Until no call is under way at these, telling how many are; False where the time was over before."""
    began, clean, progress = time.monotonic(), 0, Progress()
    try:
        while (elapsed := time.monotonic() - began) < seconds:
            shown = operator.status().records
            calls = sum(shown[name].in_flight for name in records if name in shown)
            progress.show(calls, elapsed, seconds - elapsed)
            clean = clean + 1 if calls == 0 else 0
            if clean == CLEAN_LOOKS:
                return True
            time.sleep(LOOK_SECONDS)
        return False
    finally:
        progress.end()


class Progress:
    """How many calls are under way, on stderr: in one line of a terminal, or a line for each change."""

    def __init__(self) -> None:
        self._is_live = (
            sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb")
        )
        self._most = 0
        self._before = -1

    def show(self, calls: int, elapsed: float, left: float) -> None:
        """So many, after so many seconds, of which so many are left."""
        self._most = max(self._most, calls)
        if self._is_live:
            self._draw(calls, elapsed, left)
        elif calls != self._before:
            complain(f"{_under_way(calls)}, {lasted(1000 * left)} left")
        self._before = calls

    def _draw(self, calls: int, elapsed: float, left: float) -> None:
        done = BAR if calls == 0 else BAR * (self._most - calls) // self._most
        bar = "#" * done + "-" * (BAR - done)
        line = f"[{bar}] {_under_way(calls)}, {lasted(1000 * elapsed)} so far, {lasted(1000 * left)} left"
        columns = shutil.get_terminal_size().columns
        print(f"\r{line[: columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the last line as it is; what follows begins below."""
        if self._is_live:
            print(file=sys.stderr, flush=True)


def _under_way(calls: int) -> str:
    return f"{counted(calls, 'call')} under way"
