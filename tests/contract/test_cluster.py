"""A redis.RedisCluster client on two real nodes: every script stays in one slot, pushes cross nodes."""

import pytest
import redis
from prometheus_client import CollectorRegistry
from redis.cluster import ClusterNode

from redis_router import CircuitConfig, HealthChecker, NoProviderAvailable, Operator, Provider, Router
from redis_router.testing.server import EmbeddedServer
from tests.support import eventually

QUICK = CircuitConfig(consecutive_failure_limit=3, half_open_success_threshold=1, open_timeout=0.1)
NAMES = ("openai", "azure", "mistral", "groq", "bedrock")


@pytest.fixture(scope="module")
def cluster():
    """Start-up nodes of a two-node cluster."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    with EmbeddedServer(None, *options) as one, EmbeddedServer(None, *options) as two:
        nodes = [redis.Redis(port=server.port) for server in (one, two)]
        nodes[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        nodes[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", two.port)
        for node in nodes:
            eventually(lambda node=node: node.cluster("INFO")["cluster_state"] == "ok", "the cluster is up")
            eventually(lambda node=node: node.cluster("INFO")["cluster_known_nodes"] == "2")
            node.close()
        yield [ClusterNode("127.0.0.1", server.port) for server in (one, two)]


def fleet_of(client):
    """Who is there, and what each sees."""
    return Operator(client).replicas()


def test_a_fleet_on_a_cluster(cluster):
    """Providers on both nodes, replicas and worker by different entry nodes: open, half-open, closed, everywhere."""
    clients = [redis.RedisCluster(startup_nodes=[node]) for node in (*cluster, cluster[0])]
    assert {clients[0].keyslot(f"{{{name}}}") <= 8191 for name in NAMES} == {True, False}
    first, second = (Router(client, circuit=QUICK, registry=CollectorRegistry()) for client in clients[:2])
    worker = HealthChecker(clients[2], interval=0.2, lease=1.0, registry=CollectorRegistry())
    for name in NAMES:
        first.register_provider(Provider(name, (f"model-of-{name}",)))
        second.register_provider(Provider(name, (f"model-of-{name}",)))
    with first, second:
        eventually(lambda: first.redis_up and second.redis_up)
        for name in NAMES:
            for _ in range(3):
                first.record_result(name, success=False, latency_ms=5.0)
        assert first.flush()
        for name in NAMES:
            eventually(
                lambda name=name: second.get_circuit_state(name) == "open", f"{name} is open on the other node, too"
            )
        worker.start()
        for name in NAMES:
            eventually(lambda name=name: second.get_circuit_state(name) == "half_open")
            eventually(lambda name=name: recovered(second, name), f"{name} is closed by a trial call")
            eventually(lambda name=name: first.get_circuit_state(name) == "closed")
        told = {(role, tuple(sorted(NAMES))) for role in ("gateway", "leader")}
        eventually(
            lambda: {(each.role, tuple(sorted(each.sees))) for each in fleet_of(clients[0])} == told, "all say so"
        )
        second.deregister_provider("groq", everywhere=True)
        eventually(lambda: "groq" not in first.get_health_status())
    worker.stop()
    for client in clients:
        client.close()


def recovered(router, name):
    """One trial call if there is a permit; is the circuit closed?"""
    try:
        with router.attempt(f"model-of-{name}"):
            pass
    except NoProviderAvailable:
        return False
    router.flush()
    return router.get_circuit_state(name) == "closed"
