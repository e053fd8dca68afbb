"""Servers of a test's own, that it may stop, and routers on them."""

import pytest

from redis_router import CircuitConfig
from redis_router.store.connect import connect
from redis_router.testing.server import EmbeddedServer
from tests.faults.attacked import BROKEN, CONFIG, HEALTHY, let_in
from tests.faults.away import OPENAI, QUICK
from tests.support.fleet import new_router
from tests.support.servers import Proxy


@pytest.fixture
def server():
    """One that a test may stop; it knows the documents' user."""
    with EmbeddedServer() as server:
        let_in(server)
        yield server


@pytest.fixture
def admin(server):
    """A client that may do everything."""
    with connect(f"{server.url}?socket_timeout=20") as admin:
        yield admin


@pytest.fixture
def made(server):
    """Makes routers that serve both providers, as the documents' user; closes them."""
    routers = []

    def make(url=f"redis://router:password@127.0.0.1:{server.port}/0", **options):
        router = new_router(url, **{"circuit": CONFIG, **options})
        routers.append(router)
        router.register_provider(BROKEN)
        router.register_provider(HEALTHY)
        router.start()
        assert router.flush()
        return router

    yield make
    for router in routers:
        router.close()


@pytest.fixture
def router(made):
    """A started router that serves both providers."""
    return made()


@pytest.fixture
def proxy(server):
    """A way to the server that can be cut."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def replica(server):
    """A started replica that knows openai."""
    with new_router(server.url, circuit=QUICK) as replica:
        replica.register_provider(OPENAI)
        assert replica.flush()
        yield replica


@pytest.fixture
def beyond(proxy):
    """A replica that reaches the server through the proxy alone."""
    circuit = CircuitConfig(
        consecutive_failure_limit=3, half_open_success_threshold=2, half_open_max_probes=2, open_timeout=0.3
    )
    with new_router(proxy.url, circuit=circuit) as replica:
        replica.register_provider(OPENAI)
        assert replica.flush()
        yield replica
