"""What processes say of themselves, and what the keys beside a provider's record hold: for people who look."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

GATEWAY, LEADER, STANDBY = "gateway", "leader", "standby"
COUNTED_FOR_MS = 60_000
"""So long after its word a replica's calls under way count, and it counts as one that calls the provider."""
KEPT_MS = 300_000
"""For so long the word of a process that says nothing more is kept."""


@dataclass(frozen=True, slots=True)
class Presence:
    """The last word of one process, a gateway's replica or a worker.

    role      gateway, leader or standby
    up_ms     for how long it had been running: a duration, so that no clock but Redis's counts
    alone_ms  how long it was out of touch with Redis last, deciding alone, and `back_ms` ago that ended; 0 for never
    view      record -> how this process sees it, in the words of `replicas.word_of`: of up to 200
    own       record -> the state of its circuit here, where this process decides on it by itself
    seen_ms   when it said so, ms since the epoch by Redis's clock; 0 in what is about to be said
    """

    session: str
    name: str
    role: str
    version: str
    host: str
    pid: int
    up_ms: int
    alone_ms: int = 0
    back_ms: int = 0
    view: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)
    seen_ms: int = 0

    def to_text(self) -> str:
        """As it stands in Redis: behind the moment, and under the session."""
        said = {name: value for name, value in asdict(self).items() if name not in ("session", "seen_ms")}
        return json.dumps(said, separators=(",", ":"))

    def at(self, now_ms: int) -> "Presence":
        """Said at this moment."""
        return replace(self, seen_ms=now_ms)


def presence(session: str, said: str) -> Presence | None:
    """What stands under a session; None for what is not ours, or was written by a version that says it otherwise."""
    moment, _, rest = said.partition(" ")
    try:
        found = json.loads(rest)
        words: dict[str, Any] = {name: found[name] for name in ("name", "role", "version", "host")}
        counts: dict[str, Any] = {name: found[name] for name in ("pid", "up_ms", "alone_ms", "back_ms")}
        view, own = (_words(found[name]) for name in ("view", "own"))
        if not all(isinstance(word, str) for word in words.values()):
            return None
        if not (moment.isdecimal() and len(moment) < 16):
            return None
        if not all(type(count) is int and abs(count) < 1 << 53 for count in counts.values()):
            return None
        return Presence(session, **words, **counts, view=view, own=own, seen_ms=int(moment))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _words(said: Any) -> Mapping[str, str]:
    return {str(name): str(word) for name, word in said.items()}


@dataclass(frozen=True, slots=True)
class Calls:
    """What one session has under way at a provider, as `UnderWay`, and when it said so, ms."""

    calls: int
    overdue: int
    answering: int
    said_ms: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is kept of a provider beside its record.

    permits    token (a session and a number) -> when it expires, ms
    reporters  with `min_reporters`: session -> when it complained, ms
    calls      session -> what it has under way
    denied     why permits and reporters could not be read; '' where they could
    """

    permits: Mapping[str, int] = field(default_factory=dict)
    reporters: Mapping[str, int] = field(default_factory=dict)
    calls: Mapping[str, Calls] = field(default_factory=dict)
    denied: str = ""

    def calls_at(self, now_ms: int) -> dict[str, Calls]:
        """Those that count at this moment, by session: of a replica that died they do not."""
        return {who: it for who, it in self.calls.items() if it.calls and abs(now_ms - it.said_ms) <= COUNTED_FOR_MS}


def calls(said: Mapping[str, str]) -> dict[str, Calls]:
    """By session, as the hash of calls in flight has them; what cannot be read is left out."""
    found = {}
    for session, word in said.items():
        parts = word.split(" ")
        if session and len(parts) == 4 and all(part.isdecimal() and len(part) < 16 for part in parts):
            found[session] = Calls(*map(int, parts))
    return found
