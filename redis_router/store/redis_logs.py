"""The providers' logs of events, and how far the webhook was told them: the part of `redis.py` that reads them.

Every method raises RedisUnavailable or RedisRefused.
"""

from collections.abc import Mapping

from redis_router.errors import AccessDenied, RedisRefused
from redis_router.store import messages
from redis_router.store.commands import Commands
from redis_router.store.connect import Client, translated
from redis_router.store.keys import Keys
from redis_router.store.messages import LoggedEvent, text


class RedisLogs:
    """Each method as `contract.Store` has it."""

    client: Client
    keys: Keys
    _redis: Commands

    def events(self, name: str, since_ms: int = 0, most: int = 1000) -> list[LoggedEvent]:
        with self._redis.asking():
            found = self.client.xrevrange(self.keys.events(name), min=since_ms, count=most)
        return [messages.logged(entry) for entry in reversed(found)]

    def last_event_ms(self, name: str) -> int:
        with self._redis.asking():
            last = self.client.xrevrange(self.keys.events(name), count=1)
        return int(text(last[0][0]).partition("-")[0]) if last else 0

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
