"""One provider, and what tests of a Redis that is away do and see."""

from redis_router import CircuitConfig, Provider
from tests.support import eventually

OPENAI = Provider("openai", ("m",))


QUICK = CircuitConfig(consecutive_failure_limit=3, open_timeout=60)


def fail(replica, times=3):
    for _ in range(times):
        replica.record_result("openai", success=False, latency_ms=5.0)


def until(replica, state):
    eventually(lambda: replica.get_circuit_state("openai") == state, f"openai is {state}")


def touches(caplog):
    return [r.getMessage() for r in caplog.records if "touch with Redis" in r.getMessage()]
