"""Replicas as processes of their own, over a real server: one opening, and never too many half-open calls."""

import signal
import subprocess
import sys

from tests.support import eventually

TRIP = {"consecutive_failure_limit": 3, "open_timeout": 0.05}
ENDLESS_TRIAL = {**TRIP, "half_open_success_threshold": 1_000_000, "half_open_max_probes": 3}


def test_a_program_that_ends_without_closing_delivers(one_real):
    """What was recorded just before the interpreter exits is in Redis, and nothing is printed about threads."""
    program = f"""
from redis_router import Provider, Router
router = Router({one_real.url!r}, namespace={one_real.namespace!r}, flush_interval=30.0)
router.register_provider(Provider("openai", ("m",)))
router.start()
router.record_result("openai", success=True, latency_ms=5.0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert one_real.store().snapshot().records["openai"].consecutive_successes == 1


def test_a_fork_is_a_replica_of_its_own(one_real):
    """gunicorn's preload: started before the fork; each child delivers its own, hears pushes, counts from zero."""
    program = f"""
import os, sys
from prometheus_client import REGISTRY
from redis_router import CircuitConfig, Provider, Router
from redis_router.testing import wait_until
router = Router({one_real.url!r}, namespace={one_real.namespace!r}, circuit=CircuitConfig(failure_rate_threshold=0.05))
router.register_provider(Provider("openai", ("m",)))
router.start()
for _ in range(100):
    router.record_result("openai", success=True, latency_ms=5.0)
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        for _ in range(50):
            router.record_result("openai", success=True, latency_ms=5.0)
        assert router.flush(10), "flushed"
        assert REGISTRY.get_sample_value(
            "redis_router_requests_total", dict(provider="openai", outcome="success")) == 50
        wait_until(router, "openai", "open", timeout=60.0)
        sys.exit(0)
    children.append(pid)
assert router.flush(10)
sys.stdin.readline()  # until all has arrived
router.record_result("openai", success=False, latency_ms=5.0)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], **pipes) as parent:
        try:
            eventually(lambda: one_real.looking.snapshot().records.get("openai"), "it is registered")
            eventually(lambda: one_real.record().consecutive_successes >= 250, "all has arrived")
            assert one_real.record().consecutive_successes == 250
            _, said = parent.communicate("go on\n", timeout=60)
        finally:
            parent.kill()
    assert parent.returncode == 0, said
    assert "Traceback" not in said


def half_open(store):
    """Make the worker's transition as soon as it is due."""
    eventually(lambda: store.half_open("openai").transitions, "the circuit is half-open")


def gauge(backend):
    found = backend.client().hgetall(f"{backend.namespace}:gauge")
    return {key: int(found.get(key, 0)) for key in ("now", "most", "calls")}


def test_two_processes_share_an_opening(replicas):
    """One records the failures; the other stops sending calls there, without having seen a failure of its own."""
    first, second = replicas(2, circuit=TRIP)
    first("fail", 3)
    eventually(lambda: second("state") == "open")
    assert eventually(lambda: second("transitions"))[0] == "open"


def test_half_open_calls_stay_within_the_limit_over_8_processes(replicas, one_real):
    """I-6: 32 threads in 8 processes want the provider; three calls are in flight at most, and three are at times."""
    fleet = replicas(8, circuit=ENDLESS_TRIAL)
    store = one_real.store("test")
    fleet[0]("fail", 3)
    for replica in fleet:
        eventually(lambda replica=replica: replica("state") == "open")
    for replica in fleet:
        replica("hammer", 4, 0.01)
    half_open(store)
    eventually(lambda: gauge(one_real)["calls"] >= 200, "200 half-open calls", timeout=60)
    assert gauge(one_real)["most"] == 3
    assert [replica("wrong") for replica in fleet] == [[]] * 8
    assert store.snapshot(["openai"]).records["openai"].circuit_state == "half_open"


def test_a_killed_replicas_permits_come_back(replicas, one_real):
    """I-6: it dies with all permits in flight; within its ttl the others have them."""
    (dying,) = replicas(1, circuit=ENDLESS_TRIAL, router={"permit_ttl": 1.0})
    dying("fail", 3)
    eventually(lambda: dying("state") == "open")
    half_open(one_real.store("test"))
    held = {dying("hang") for _ in range(3)}
    assert len(held) == 3
    (other,) = replicas(1, circuit=ENDLESS_TRIAL, router={"permit_ttl": 1.0})
    permits = one_real.store("test").keys.permits("openai")
    other("hammer", 4, 0.01)
    assert set(one_real.client().zrange(permits, 0, -1)) == held
    dying.process.send_signal(signal.SIGKILL)
    eventually(lambda: gauge(one_real)["calls"] >= 10, "the other replica has permits")
    assert gauge(one_real)["most"] <= 3
    assert other("wrong") == []
