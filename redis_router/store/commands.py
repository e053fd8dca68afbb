"""One connection's commands to Redis, and its push channel: what redis-py raises becomes an error of ours."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from redis_router.store import messages, scripts
from redis_router.store.connect import REDIS_ERRORS, Client, NoScript, subscriber, translated
from redis_router.store.messages import Event

RAW = {"NEVER_DECODE": True}
"""Bytes, whatever the client was told: `messages` reads them, and no byte of anybody's can make redis-py raise."""


class Commands:
    """Every method raises RedisUnavailable or RedisRefused."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked_at: dict[int, float] = {}

    def waits_for(self, thread: int | None) -> float:
        """Seconds for which the command that this thread sent has been on its way; 0 where there is none."""
        asked_at = self._asked_at.get(thread or 0)
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """One of our scripts, by its name."""
        found = scripts.load(script)
        try:
            return self.ask("EVALSHA", found.sha, len(keys), *keys, *args)
        except NoScript:  # EVAL caches the script on the node that lacked it
            return self.ask("EVAL", found.text, len(keys), *keys, *args)

    def ask(self, *command: Any) -> Any:
        """One command, its answer in bytes."""
        with self.asking():
            return self._client.execute_command(*command, **RAW)

    def ask_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Many in one round trip; an exception in place of an answer concerns that command alone."""
        if not commands:
            return []
        with self.asking():
            pipe = self._client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command, **RAW)
            return list(pipe.execute(raise_on_error=False))

    def subscribe(self, channel: str) -> "RedisSubscription":
        """Begin to listen; the first message says that the subscription stands."""
        with self.asking():
            pubsub = subscriber(self._client)
            pubsub.subscribe(channel)
        return RedisSubscription(pubsub)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While a command is on its way."""
        thread = threading.get_ident()
        self._asked_at[thread] = time.monotonic()
        try:
            with _translating():
                yield
        finally:
            self._asked_at.pop(thread, None)


class RedisSubscription:
    """The push channel, read by one thread."""

    def __init__(self, pubsub: Any) -> None:
        self._pubsub = pubsub

    def next(self, timeout: float) -> Literal["subscribed", "silence", "alive"] | Event:
        """The next event; "subscribed" after each (re)connect: pushes may be lost; "alive": any other sign of life."""
        with _translating():
            try:
                message = self._pubsub.get_message(timeout=timeout)
            except UnicodeError:  # the user's client decodes, and somebody published what is no text
                return "alive"
        if message is None:
            return "silence"
        if message["type"] == "subscribe":
            return "subscribed"
        if message["type"] != "message":
            return "alive"
        return messages.event(message["data"]) or "alive"

    def ping(self) -> None:
        """Ask for a sign of life: a hung server never breaks a connection that only listens."""
        with _translating():
            self._pubsub.ping()

    def close(self) -> None:
        """Hang up, whatever state the connection is in."""
        try:
            self._pubsub.close()
        except REDIS_ERRORS:
            return


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except NoScript:  # the caller knows what to do
        raise
    except REDIS_ERRORS as error:
        raise translated(error) from error
