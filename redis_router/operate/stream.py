"""One viewer's stream: server-sent events, each all of the fleet or what changed since the one before.

It lasts ten seconds. Browsers connect again by themselves and say which event they saw last, so nothing is
missed; and a server that ends waits for no viewer.
"""

import json
import threading
import time

from redis_router.operate.feed import Feed

LASTS_SECONDS = 10.0
BEAT_SECONDS = 1.0
"""An event comes at least so often: a viewer knows within seconds that none do."""
LOOK_SECONDS = 0.1
AGAIN_MS = 250
"""So soon a browser connects again."""


class Places:
    """So many may look on live at once."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._lock = threading.RLock()

    def take(self) -> bool:
        """Was one free?"""
        with self._lock:
            is_free = self._free > 0
            self._free -= is_free
        return is_free

    def give_back(self) -> None:
        """Somebody else may have it."""
        with self._lock:
            self._free += 1


class Stream:
    """Used by one viewer. Nothing is kept for it: one that is slow gets more with its next event."""

    def __init__(self, feed: Feed, since: str, places: Places) -> None:
        self._feed = feed
        self._since = since
        self._places: Places | None = places
        self._until = time.monotonic() + LASTS_SECONDS
        self._sent: tuple[object, ...] | None = None
        self._sent_at = float("-inf")

    @property
    def is_over(self) -> bool:
        """Is it to be ended?"""
        return self._feed.closed or time.monotonic() >= self._until

    @property
    def is_due(self) -> bool:
        """Is there something to send? It waits for nothing."""
        return self._state != self._sent or time.monotonic() - self._sent_at >= BEAT_SECONDS

    @property
    def _state(self) -> tuple[object, ...]:
        return self._feed.number, self._feed.error

    def take(self) -> bytes:
        """What there is to send now; b'' for nothing."""
        self._feed.watch()
        if not self.is_due:
            return b""
        is_first = self._sent is None
        self._sent, self._sent_at = self._state, time.monotonic()
        whole, message, self._since = self._feed.changes(self._since)
        retry = f"retry: {AGAIN_MS}\n" if is_first else ""
        kind = "fleet" if whole else "changes"
        return f"{retry}event: {kind}\nid: {self._since}\ndata: {json.dumps(message)}\n\n".encode()

    def close(self) -> None:
        """Its place is free."""
        places, self._places = self._places, None
        if places is not None:
            places.give_back()
