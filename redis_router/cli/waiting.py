"""`drain --wait`: until no call is under way, with a bar on a terminal, and lines elsewhere."""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing

from redis_router.circuit.overrides import TAKES_OUT, override_of
from redis_router.circuit.record import TakenOutBy
from redis_router.cli.terminal import EndedBySignals, complain, counted, lasted
from redis_router.errors import RedisUnavailable, RouterError
from redis_router.overriding import Operator
from redis_router.store.contract import Snapshot

LOOK_SECONDS = 0.25
"""So often replicas say how many calls they have under way."""
CLEAN_LOOKS = 3
"""A call that began just before the word was heard is told of by the last of so many."""
BAR = 24


def wait(operator: Operator, records: Sequence[str], seconds: float) -> bool:
    """Until no call is under way at these, telling how many are; False where the time was over before.

    Redis may be away meanwhile, and a record be lost until a replica brings it back. Raises RouterError where that
    lasts to the end, or where calls are let through again: then nothing that is under way need ever end.
    """
    began, clean, away = time.monotonic(), 0, None
    with EndedBySignals() as signals, closing(Progress()) as progress:
        while (elapsed := time.monotonic() - began) < seconds:
            try:
                calls, away = _calls_at(operator, records), None
            except RedisUnavailable as error:
                calls, away = None, error
            if calls is not None:
                progress.show(calls, elapsed, seconds - elapsed)
            clean = clean + 1 if calls == 0 else 0
            if clean == CLEAN_LOOKS:
                return True
            signals.rest(LOOK_SECONDS)
        if away is not None:
            raise away
        return False


def _calls_at(operator: Operator, records: Iterable[str]) -> int | None:
    """The calls at these; None where it is not known of all. Raises RouterError where one is out of service no more."""
    snapshot, calls = operator.status(), 0
    for name in records:
        if name in snapshot.records:
            _check_out(snapshot, name)
            # most often 0; else by each replica's word, for the sum has calls of one that died until another one speaks
            calls += operator.in_flight(name) if snapshot.records[name].in_flight else 0
        elif name in snapshot.deregistered:
            raise RouterError(f"{name} was deregistered while its calls were waited for: none is counted any more")
        else:
            return None
    return calls


def _check_out(snapshot: Snapshot, name: str) -> None:
    health = snapshot.records[name]
    is_out = health.unavailable_reason == TakenOutBy.OPERATOR or override_of(health, snapshot.now_ms) in TAKES_OUT
    if not is_out:
        raise RouterError(
            f"{name} is drained no more, so calls go there again and it was not waited for: its time was over, or"
            f" somebody ended it; see redis-router events {name}"
        )


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
            complain(f"{_counted(calls)}, {lasted(1000 * left)} left")
        self._before = calls

    def _draw(self, calls: int, elapsed: float, left: float) -> None:
        done = BAR if calls == 0 else BAR * (self._most - calls) // self._most
        bar = "#" * done + "-" * (BAR - done)
        line = f"[{bar}] {_counted(calls)}, {lasted(1000 * elapsed)} so far, {lasted(1000 * left)} left"
        columns = shutil.get_terminal_size().columns
        print(f"\r{line[: columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the last line as it is; what follows begins below."""
        if self._is_live:
            print(file=sys.stderr, flush=True)


def _counted(calls: int) -> str:
    return f"{counted(calls, 'call')} under way"
