"""The library's log. A handler or a filter of the application that raises fails no request and ends no thread."""

import logging
import sys
import time
from contextlib import suppress
from typing import Any


class _Log(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        with suppress(Exception):
            # 2: the line is of whoever called us, not of this one
            self.logger.log(level, msg, *args, **{"stacklevel": 2, **options})


log = _Log(logging.getLogger("redis_router"))
"""Called by no thread that holds a lock of ours: a handler may take its time, and call the router."""


def log_to_stderr() -> None:
    """For a process that is all ours: from INFO on, with the time. Does nothing where it goes somewhere already."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore"):  # a line for each probe
        logging.getLogger(chatty).setLevel(logging.WARNING)


_MOST_KEYS = 1000


class Seldom:
    """Lines of the request path, at INFO: at most one in `every` seconds for each key, and how many it left out."""

    def __init__(self, every: float = 1.0) -> None:
        self._every = every
        self._next_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def say(self, key: str, text: str, *args: object) -> None:
        """Log it, unless the last line of this key is too young."""
        now = time.monotonic()
        if now < self._next_at.get(key, 0.0):
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return
        if len(self._next_at) >= _MOST_KEYS:
            self._next_at = {each: at for each, at in self._next_at.items() if at > now}
            self._left_out = {each: n for each, n in self._left_out.items() if each in self._next_at}
        self._next_at[key] = now + self._every
        more = self._left_out.pop(key, 0)
        log.info(text + (f" ({more} more like this since the last such line)" if more else ""), *args)
