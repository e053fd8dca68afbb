"""What one request asked already, and when it may ask there again: never, but after a rate limit that it waits out."""

import math
from collections.abc import Callable


class Tried:
    """Pairs of a model and the name of a record; `now` is the monotonic clock, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._again_at: dict[tuple[str, str], float] = {}

    def add(self, model: str, record: str, again_at: float = math.inf) -> None:
        """It was asked, and may be again from that moment on."""
        self._again_at[model, record] = again_at

    def barred(self) -> frozenset[tuple[str, str]]:
        """Those that may not be asked now."""
        if not self._again_at:
            return _NONE
        now = self._now()
        return frozenset(pair for pair, again_at in self._again_at.items() if again_at > now)

    def may_be_asked_again(self, model: str, record: str) -> bool:
        """Now or later, or for the first time."""
        return self._again_at.get((model, record), 0.0) < math.inf

    def next_moment(self) -> float:
        """When the next one may be asked again; infinite where that is never."""
        now = self._now()
        return min((again_at for again_at in self._again_at.values() if again_at > now), default=math.inf)


_NONE: frozenset[tuple[str, str]] = frozenset()
