"""What a strategy chooses between: a provider, its health, and what this replica alone knows of it."""

from dataclasses import dataclass, field

from redis_router.circuit.record import ProviderHealth
from redis_router.provider import Provider


@dataclass(slots=True)
class Here:
    """What this replica alone knows of a provider: the same object in every table.

    in_flight      one entry for each attempt of this replica that is under way: a list, as appending is atomic
    told           how many of them the fleet's record counts, as this replica said last
    elsewhere      calls under way at other replicas, by the record that was taken in last
    limited_until  a rate limit that this replica was told of and the fleet's record may not show yet: monotonic
                   seconds, 0 for none
    looked_at_ms   when a call was sent here only to see how it is, on Redis's clock
    """

    in_flight: list[None] = field(default_factory=list)
    told: int = 0
    elsewhere: int = 0
    limited_until: float = 0.0
    looked_at_ms: float = 0.0

    def heard(self, in_flight: int) -> None:
        """So many calls are under way over the fleet, those counted in that this replica said last."""
        self.elsewhere = max(0, in_flight - self.told)

    def limited_for(self, now: float) -> float:
        """Seconds for which it wants no calls, as this replica knows itself; 0 for none. `now` is monotonic, in s."""
        return max(0.0, self.limited_until - now)

    def is_free(self, now: float) -> bool:
        """May it be called, as far as this replica knows itself? A limit that is over is forgotten."""
        if self.limited_until > now:
            return False
        self.limited_until = 0.0
        return True

    def may_look(self, now_ms: float, every_ms: float) -> bool:
        """May a call be sent here only to see how it is? Once in `every_ms`, and not where one is under way."""
        if self.in_flight or abs(now_ms - self.looked_at_ms) < every_ms:
            return False
        self.looked_at_ms = now_ms
        return True


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a strategy chooses between: a provider together with its health as this replica knows it."""

    provider: Provider
    health: ProviderHealth
    here: Here = field(default_factory=Here, compare=False, repr=False)

    @property
    def in_flight(self) -> list[None]:
        """One entry for each attempt of this replica that is under way."""
        return self.here.in_flight

    @property
    def elsewhere(self) -> int:
        """Calls under way at other replicas, as they said last."""
        return self.here.elsewhere

    @property
    def load(self) -> int:
        """Calls that the whole fleet has under way, as far as it is known here."""
        return self.here.elsewhere + len(self.here.in_flight)
