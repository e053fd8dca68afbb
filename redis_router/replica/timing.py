"""Which circuits of those that are shown are open or on trial, and what time alone will change."""

import time
from collections.abc import Callable, Iterable

from redis_router.circuit.machine import OPEN
from redis_router.circuit.overrides import acting
from redis_router.circuit.record import CLOCK_SKEW_MS, ProviderHealth
from redis_router.routing.table import changes_in_ms, depends_on_time, is_half_open


class Timing:
    """Changed under the view's lock and read without it: what stays in it is in it at every moment.

    `clock` is Redis's, in ms.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.on_trial: dict[str, ProviderHealth] = {}
        """The half-open ones that take trial calls."""
        self.open: set[str] = set()
        self._clock = clock
        self._clock_offset = 0.0  # from this process's monotonic one, in ms
        self._by_time: dict[str, tuple[float, ProviderHealth]] = {}  # when something changes, in ms of Redis's clock

    def note(self, records: Iterable[ProviderHealth]) -> None:
        """These are shown from now on."""
        now = self._clock()
        for health in records:
            if is_half_open(acting(health, now)):
                self.on_trial[health.name] = health
            else:
                self.on_trial.pop(health.name, None)
            if health.circuit_state is OPEN:
                self.open.add(health.name)
            else:
                self.open.discard(health.name)
            wait = changes_in_ms(health, now)
            if wait is not None:
                self._by_time[health.name] = now + wait, health
            else:
                self._by_time.pop(health.name, None)

    def forget(self, name: str) -> None:
        """This provider is shown no more."""
        self.on_trial.pop(name, None)
        self._by_time.pop(name, None)
        self.open.discard(name)

    @property
    def waits(self) -> bool:
        """Will time alone change anything?"""
        return bool(self._by_time)

    def seconds_left(self) -> float | None:
        """Until time alone changes something; None where it will not."""
        moments = [at for at, _ in list(self._by_time.values())]
        return (min(moments) - self._clock()) / 1000 if moments else None

    def due(self, shown: Iterable[ProviderHealth]) -> dict[str, ProviderHealth]:
        """Those whose rate limit is over or whose share grows; where the clock was set, all of `shown` with such."""
        now = self._clock()
        offset = now - time.monotonic() * 1000
        if abs(offset - self._clock_offset) > CLOCK_SKEW_MS / 2:  # or is known for the first time
            self._clock_offset = offset
            return {health.name: health for health in shown if depends_on_time(health)}
        return {name: health for name, (at, health) in self._by_time.items() if at <= now}
