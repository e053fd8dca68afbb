"""Whether this process is in touch with Redis: one word, one metric and one log line for each edge."""

import threading

from redis_router.runtime.log import log
from redis_router.telemetry.metrics import Metrics

COMMANDS, PUSH = "commands", "push channel"


class Link:
    """Up while commands are served and the push channel is alive; down before the first contact.

    Those who use either side report what they meet, and are told whether that was a change. `address` is for the log.
    """

    def __init__(self, address: str, metrics: Metrics) -> None:
        self.up = False
        self.push_up: bool | None = None
        """None before anything was heard of it."""
        self._commands_up = True  # until one fails: the push channel makes the first contact
        self._address = address
        self._metrics = metrics
        self._lock = threading.RLock()  # a signal handler may close the router while it is held
        self._told: bool | None = None
        self._closed = False
        metrics.watch_link(self)

    def works(self, side: str) -> bool:
        """This side was served."""
        return not self.up and self._set(side, True, "")

    def failed(self, side: str, error: BaseException) -> bool:
        """This side was not served."""
        return self._set(side, False, f"{side}: {error}")

    def close(self) -> None:
        """This process leaves: not an edge."""
        with self._lock:
            self.up, self._told, self._closed = False, False, True
        self._metrics.drop_link(self)

    @property
    def is_down(self) -> bool:
        """Did either side fail since it last worked?"""
        return self.push_up is False or not self._commands_up

    def _set(self, side: str, works: bool, why: str) -> bool:
        with self._lock:
            if self._closed:
                return False
            before = (self.push_up, self._commands_up)
            if side == PUSH:
                self.push_up = works
            else:
                self._commands_up = works
            self.up = bool(self.push_up) and self._commands_up
            # one side may be back, and the other not yet: no news
            is_news = self.up != self._told and (self.up or bool(why))
            if is_news:
                self._told = self.up
                self._metrics.link_changed()
            changed = (self.push_up, self._commands_up) != before
        if is_news and works:
            log.info("in touch with %s", self._address)
        elif is_news:
            log.warning("out of touch with %s, deciding alone meanwhile: %s", self._address, why)
        return changed
