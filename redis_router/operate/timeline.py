"""What happened lately, over all providers: the last entries of their logs, read again where somebody said that there
is a new one.
"""

from collections.abc import Set

from redis_router.errors import RedisRefused
from redis_router.operate import facts
from redis_router.operate.facts import Json
from redis_router.store.contract import Store

KEPT = 200
"""Entries that are kept, over all providers."""
OF_EACH = 50
"""Entries that are read of one provider at a time."""
AT_ONCE = 200
"""Logs that are read at one time: each is a round trip."""


class Timeline:
    """One thread at a time changes it; any may ask for entries.

    refused  why the logs cannot be read; '' where they can
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: list[tuple[int, Json]] = []
        self._last: dict[str, Json] = {}
        self._names: Set[str] = frozenset()
        self._unread: dict[str, None] = {}
        self._number = 0
        self.refused = ""

    @property
    def number(self) -> int:
        """Of the newest entry; each that comes has a higher one."""
        return self._number

    def entries(self, after: int = 0) -> list[Json]:
        """Those with a higher number than this, newest first."""
        return [entry for number, entry in self._kept if number > after]

    def expect(self, names: Set[str]) -> None:
        """These are all that have a log. One that is new may have entries."""
        self._unread.update(dict.fromkeys(names - self._names))
        self._last = {name: last for name, last in self._last.items() if name in names}
        self._names = names

    def note(self, name: str | None) -> None:
        """There may be new entries in this provider's log; in all of them, where it is None."""
        self._unread.update(dict.fromkeys(self._names if name is None else {name} & self._names))

    def read(self) -> None:
        """Read the logs that were noted, or as many as may be read at one time. Raises RedisUnavailable."""
        found: list[Json] = []
        for name in list(self._unread)[:AT_ONCE]:
            try:
                found += self._new(name)
                self.refused = ""
            except RedisRefused as error:  # the others would be refused as well
                self.refused = str(error)
                self._unread.clear()
                break
            self._unread.pop(name, None)
        number = self._number
        new = [(number + place, entry) for place, entry in enumerate(sorted(found, key=_moment), 1)]
        # several may have come in one millisecond, as where one script ends an override and begins another
        self._kept = sorted([*self._kept, *new], key=lambda each: (_moment(each[1]), each[0]), reverse=True)[:KEPT]
        self._number = number + len(new)

    def _new(self, name: str) -> list[Json]:
        last = self._last.get(name)
        since_ms = 0 if last is None else last["at_ms"]
        read = [facts.event(name, each) for each in self._store.events(name, since_ms, OF_EACH)]
        if last in read:  # several may have come in one millisecond
            read = read[read.index(last) + 1 :]
        if read:
            self._last[name] = read[-1]
        return read


def _moment(entry: Json) -> int:
    return int(entry["at_ms"])
