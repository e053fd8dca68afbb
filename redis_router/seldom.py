"""Log lines from the request path: few, however many requests there are, and never an exception."""

import logging
import time
from contextlib import suppress


class Seldom:
    """Logs at INFO at most one line in `every` seconds for each key, and how many it left out."""

    def __init__(self, log: logging.Logger, every: float = 1.0) -> None:
        self._log = log
        self._every = every
        self._next_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def say(self, key: str, text: str, *args: object) -> None:
        """Log it, unless the last line of this key is too young."""
        with suppress(Exception):  # a handler of the application's own: it must not fail the request
            now = time.monotonic()
            if now < self._next_at.get(key, 0.0):
                self._left_out[key] = self._left_out.get(key, 0) + 1
                return
            self._next_at[key] = now + self._every
            more = self._left_out.pop(key, 0)
            self._log.info(text + (f" ({more} more like this since the last such line)" if more else ""), *args)
