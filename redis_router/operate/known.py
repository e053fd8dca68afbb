"""What the page knows of one provider: its facts, since when, and how its averages were lately."""

from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

from redis_router.circuit.record import ProviderHealth
from redis_router.operate.facts import Json
from redis_router.store.messages import Spec

SAMPLE_MS = 5000
SAMPLES = 60
"""Five minutes of history."""
LOGGED = attrgetter(
    *("generation", "available", "unavailable_reason", "weight", "config", "circuit_version", "declined_settings"),
    *("override", "override_until_ms", "override_by", "override_reason", "cooling_logged_ms"),
    *("weight_override", "weight_override_until_ms", "weight_override_by", "weight_override_reason"),
)
"""What changes in a record when something is written into its log."""


@dataclass(slots=True)
class Known:
    """What is known of one provider, and since which number."""

    health: ProviderHealth
    spec: Spec
    facts: Json
    number: int
    samples: deque[tuple[int, float, float]] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def history(self) -> Json:
        """Columns, oldest first."""
        columns = list(zip(*self.samples, strict=True)) or [(), (), ()]
        return dict(zip(("at_ms", "latency_ms", "failure_rate"), map(list, columns), strict=True))

    def sample(self, now_ms: int) -> None:
        """Its averages of now go into the history, unless the last ones are young."""
        last_ms = self.samples[-1][0] if self.samples else 0
        if not self.samples or now_ms - last_ms >= SAMPLE_MS or now_ms < last_ms:
            self.samples.append((now_ms, round(self.health.latency_ms, 1), round(self.health.failure_rate, 4)))
