"""A 3+3 cluster loses a master, moves a slot, loses the node that pushes came from."""

import time
from contextlib import closing

import pytest
import redis

from redis_router import CircuitConfig, Provider
from redis_router.store.connect import connect
from redis_router.store.keys import Keys
from redis_router.store.redis import RedisStore
from tests.conftest import RIGHTS
from tests.support import eventually, metric
from tests.support.documents import said_once
from tests.support.fleet import new_router
from tests.support.servers import cluster, wait_replicated

NAMES = ("openai", "azure", "mistral", "groq", "bedrock")
CONFIG = CircuitConfig(consecutive_failure_limit=3, open_timeout=60)
PATIENT = {"result_ttl": 60, "buffer_limit": 1_000_000}


@pytest.fixture
def nodes():
    """With the documents' least user, on every node."""
    extra = said_once(r"[Ii]n a cluster add `(\+[^`]+)`")
    with cluster() as made:
        for port in made.servers:
            rights = ("-@all", *RIGHTS.split(), *extra.split())
            made.ask(port, "ACL", "SETUSER", "router", "on", ">password", "~rr:*", "&rr:events", *rights)
        made.url = made.url.replace("://", "://router:password@")
        yield made


@pytest.fixture
def fleet(nodes):
    """Two replicas by the cluster's URL, providers on every master."""
    with (
        new_router(nodes.url, circuit=CONFIG, **PATIENT) as first,
        new_router(nodes.url, circuit=CONFIG, **PATIENT) as second,
    ):
        for replica in (first, second):
            for name in NAMES:
                replica.register_provider(Provider(name, (f"model-of-{name}", "any")))
            assert replica.flush()
        yield first, second


def traffic(replica, seconds, until=lambda: False):
    """Successes at every provider; how many each."""
    sent, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline and not until():
        assert replica.select_provider("any")
        for name in NAMES:
            replica.record_result(name, success=True, latency_ms=5.0)
        sent += 1
        time.sleep(0.002)  # a steady rate, not one burst
    return sent


def totals(nodes):
    records = RedisStore(connect(nodes.url), "rr", "test").snapshot().records
    return {name: record.consecutive_successes for name, record in records.items()}


def tell(first, second):
    """An operator's word at one replica arrives at the other, by push."""
    wanted = not first.get_health_status()["azure"].available
    eventually(lambda: told(first, wanted), "the change is in Redis")
    eventually(lambda: second.get_health_status()["azure"].available == wanted, "the push arrives")


def told(replica, wanted):
    try:
        replica.update_health("azure", available=wanted)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("which", ["a master", "a node that pushes came from"])
def test_a_node_dies(nodes, fleet, which):
    """Its replica takes over; each result counts once; what is pushed arrives, whichever node it came from."""
    first, second = fleet
    sent = traffic(first, 0.3)
    assert first.flush(10)
    if which == "a master":
        with closing(connect(nodes.url)) as client:
            doomed = nodes.master_of(Keys("rr").health("openai"), client)
    else:
        doomed = next(port for port in nodes.servers if "sub=1" in nodes.ask(port, "CLIENT", "LIST", "TYPE", "PUBSUB"))
    wait_replicated(nodes.servers)  # losses are another test's matter
    nodes.kill(doomed)
    sent += traffic(first, 60, until=lambda: nodes.gave_up(doomed) and nodes.healthy())
    sent += traffic(first, 30, until=lambda: first.redis_up and second.redis_up)
    assert first.flush(20)
    assert totals(nodes) == dict.fromkeys(NAMES, sent)
    for name in NAMES:
        assert metric(first, "requests_total", provider=name, outcome="success") == sent
    tell(first, second)


def test_a_slot_moves(nodes, fleet):
    """Under traffic: no error, and each result counts once."""
    first, second = fleet
    sent = traffic(first, 0.3)
    with closing(connect(nodes.url)) as client:
        slot = client.keyslot(Keys("rr").health("openai"))
        source = nodes.master_of(Keys("rr").health("openai"), client)
        target = next(node.port for node in client.get_primaries() if node.port != source)
    source_id, target_id = nodes.ask(source, "CLUSTER", "MYID"), nodes.ask(target, "CLUSTER", "MYID")
    nodes.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    nodes.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    sent += traffic(first, 0.2)
    with redis.Redis(port=source, decode_responses=True) as client:
        while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            client.execute_command("MIGRATE", "127.0.0.1", target, keys[0], 0, 1000)
            sent += traffic(first, 0.1)
    for port in (target, source):
        nodes.ask(port, "CLUSTER", "SETSLOT", slot, "NODE", target_id)
    sent += traffic(first, 0.5)
    assert first.flush(20)
    assert totals(nodes) == dict.fromkeys(NAMES, sent)
    tell(first, second)
