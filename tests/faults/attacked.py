"""Two providers of which one is broken, and what tests of attacks on it do and see."""

from redis_router import CircuitConfig, Provider
from redis_router.store.connect import connect
from tests.conftest import RIGHTS
from tests.support import eventually

BROKEN, HEALTHY = Provider("broken", ("m",)), Provider("healthy", ("m",))


CONFIG = CircuitConfig(consecutive_failure_limit=3, open_timeout=60)


def let_in(server):
    """The documents' user, whom a server that starts again does not know."""
    with connect(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "router", "on", ">password", "~rr:*", "&rr:events", *RIGHTS.split())


def fail(router, name="broken", times=3):
    for _ in range(times):
        router.record_result(name, success=False, latency_ms=5.0)


def until(router, state, name="broken"):
    eventually(lambda: router.get_circuit_state(name) == state, f"{name} is {state}")


def record_of(admin, name="broken"):
    return dict(admin.hgetall(f"rr:{{{name}}}:health").items())


def said(caplog, text):
    return [r for r in caplog.records if text in r.getMessage()]
