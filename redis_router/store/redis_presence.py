"""Who is there, and what is kept of a provider beside its record: the part of `redis.py` that people look at.

Every method raises RedisUnavailable or RedisRefused.
"""

from collections.abc import Mapping
from typing import Any

from redis_router.errors import AccessDenied, RedisRefused
from redis_router.store import messages, presence
from redis_router.store.commands import Commands
from redis_router.store.connect import Client, translated
from redis_router.store.keys import Keys
from redis_router.store.messages import LoggedEvent, text
from redis_router.store.presence import KEPT_MS, Presence, Surroundings


class RedisPresence:
    """Each method as `contract.Store` has it."""

    keys: Keys
    session: str
    now_ms: int | None
    client: Client
    _redis: Commands

    @property
    def _now(self) -> str | int:
        return "" if self.now_ms is None else self.now_ms

    def say_present(self, said: Presence) -> None:
        self._redis.run("present", [self.keys.replicas], [self._now, self.session, said.to_text(), KEPT_MS])

    def say_gone(self) -> None:
        self._redis.run("present", [self.keys.replicas], [self._now, self.session, "", KEPT_MS])

    def presences(self) -> list[Presence]:
        said = messages.pairs(self._redis.ask("HGETALL", self.keys.replicas))
        found = [presence.presence(session, word) for session, word in said.items() if session]
        return [each for each in found if each is not None]

    def surroundings(self, name: str) -> Surroundings:
        keys = self.keys
        asked = [("ZRANGE", key(name), 0, -1, "WITHSCORES") for key in (keys.permits, keys.reporters)]
        *ranked, in_flight = self._redis.ask_all([*asked, ("HGETALL", keys.in_flight(name))])
        denied = ""
        for said in (in_flight, *ranked):
            if isinstance(said, Exception):
                error = translated(said)
                if said is in_flight or not isinstance(error, AccessDenied):
                    raise error
                denied = str(error.__cause__ or error)
        permits, reporters = ({} if denied else _moments(said) for said in ranked)
        return Surroundings(permits, reporters, presence.calls(messages.pairs(in_flight)), denied)

    def last_seen(self) -> dict[str, int]:
        said = messages.pairs(self._redis.ask("HGETALL", self.keys.seen))
        return {name: int(at) for name, at in said.items() if at.isdecimal() and len(at) < 16}

    def events(self, name: str, since_ms: int = 0, most: int = 1000) -> list[LoggedEvent]:
        with self._redis.asking():
            found = self.client.xrevrange(self.keys.events(name), min=since_ms, count=most)
        return messages.readable(found)

    def news(self, after: Mapping[str, str], most: int = 1000) -> dict[str, list[LoggedEvent]]:
        asked = [
            ("XREVRANGE", self.keys.events(name), "+", f"({entry}", "COUNT", most) for name, entry in after.items()
        ]
        found: dict[str, list[LoggedEvent]] = {}
        for name, answer in zip(after, self._redis.ask_all(asked), strict=True):
            if isinstance(answer, Exception):
                error = translated(answer)
                if not isinstance(error, RedisRefused) or isinstance(error, AccessDenied):
                    raise error
            elif entries := messages.readable(answer):
                found[name] = entries
        return found

    def told(self) -> dict[str, str]:
        return messages.pairs(self._redis.ask("HGETALL", self.keys.told))

    def note_told(self, epoch: int, entries: Mapping[str, str]) -> bool:
        pairs = [part for pair in entries.items() for part in pair]
        return text(self._redis.run("told", [self.keys.leader, self.keys.told], [epoch, *pairs])) == "1"

    def last_event_ms(self, name: str) -> int:
        with self._redis.asking():
            last = self.client.xrevrange(self.keys.events(name), count=1)
        return int(text(last[0][0]).partition("-")[0]) if last else 0


def _moments(said: Any) -> dict[str, int]:
    """Of a sorted set: redis-py may have made pairs of it, or not, and numbers of its scores."""
    flat = [part for each in said for part in (each if isinstance(each, list | tuple) else (each,))]
    return {member: int(float(score)) for member, score in messages.pairs(flat).items()}
