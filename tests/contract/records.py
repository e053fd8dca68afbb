"""Records in the states that tests of the store begin with, at moments that the test sets."""

from redis_router import CircuitConfig, CircuitState, Provider
from tests.support import recorded, result

OPENAI = Provider("openai", models=("gpt-4o",), weight=2.0, probe="http://127.0.0.1:1/healthz")
CONFIG = CircuitConfig(
    consecutive_failure_limit=3, half_open_success_threshold=2, half_open_max_probes=2, open_timeout=10
)


def opened(store, *, config=CONFIG, at=1_000):
    """A record whose circuit opened at `at` ms, by three failures in a row."""
    store.now_ms = at
    store.register(OPENAI, config)
    reply = recorded(store, "openai", 1, *[result("openai", False)] * config.consecutive_failure_limit)
    assert reply.health.circuit_state is CircuitState.OPEN
    return reply.health


def half_opened(store, *, config=CONFIG):
    """The same record, half-open at 11,000 ms."""
    opened(store, config=config)
    store.now_ms = 11_000
    return store.half_open("openai").health
