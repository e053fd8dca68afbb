"""Who chooses: an oracle, the original router, and this library's fleet."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.quality.fleet import EPOCH_MS, Fleet
from benchmarks.quality.world import Answer, ByCall, Provider, Run
from redis_router import CircuitConfig, CircuitState, Outcome, ProviderHealth
from redis_router.circuit import machine as circuit
from redis_router.circuit.outcome import Result
from redis_router.routing.strategies import resolve


class Oracle(ByCall):
    """Knows how every provider is, and its queue; takes the one that will have answered first."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, Any] | None:
        left = [p for p in self._run.providers.values() if p.name not in tried]
        return (min(left, key=lambda p: self._badness(p, replica)).name, None) if left else None

    def _badness(self, provider: Provider, replica: int) -> tuple[float, float]:
        incidents = self._run.incidents(provider.name, replica)
        limited = any(each.limit is not None and not self._run.has_token(provider, each.limit) for each in incidents)
        chance = 1.0 if limited else max((each.chance for each in incidents), default=0.0)
        mean = provider.mean * self._run.slowdown(provider.name, replica)
        rounds = 1 + max(0, provider.busy + len(provider.waiting) + 1 - provider.slots) / provider.slots
        return chance, mean * rounds

    def restart(self) -> None: ...


class Original(ByCall):
    """The Go router in each replica by itself: its circuits, its latency strategy, unlimited half-open."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.restart()

    def restart(self) -> None:
        self._records = [
            {name: ProviderHealth(name) for name in self._run.providers} for _ in range(self._run.replicas)
        ]

    def _now_ms(self) -> int:
        return EPOCH_MS + int(self._run.world.now * 1000)

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, Any] | None:
        records, now = self._records[replica], self._now_ms()
        for name, health in records.items():  # its checker's loop
            records[name], _ = circuit.half_open(health, now)
        left = [
            h
            for h in records.values()
            if h.name not in tried and (h.available or h.circuit_state is CircuitState.HALF_OPEN)
        ]
        if not left:
            return None
        best = min(left, key=lambda h: h.latency_ms)
        return best.name, best.name

    def done(self, replica: int, ticket: Any, answer: Answer, seconds: float) -> None:
        health = self._records[replica][ticket]
        outcome = Outcome.SUCCESS if answer.status == 200 else Outcome.FAILURE
        result = Result(ticket, outcome, seconds * 1000, health.generation)
        self._records[replica][ticket], _ = circuit.fold(health, result, self._now_ms())


GUIDE = CircuitConfig(
    window=10.0,
    minimum_calls=10,
    window_failure_rate_threshold=0.3,
    slow_call_duration_threshold=2.5,
    slow_call_rate_threshold=0.5,
    open_timeout=5.0,
    open_timeout_multiplier=2.0,
    open_timeout_max=60.0,
    open_timeout_jitter=0.2,
    min_reporters=2,
    slow_start=10.0,
)
"""Thresholds for `p2c`, set by hand; a slow call is one that takes longer than 99 % of the best provider's do."""


def ours(url: str, strategy: str, config: CircuitConfig) -> Callable[[Run], Fleet]:
    """A policy of ours, for `Run.play`."""
    return lambda run: Fleet(run, url, partial(resolve, strategy), config)
