"""Between a replica and Redis: a slow link, and a look-up of a name that hangs."""

import logging
import socket
import threading

import pytest

from tests.faults.attacked import fail, let_in, said, until
from tests.support import eventually
from tests.support.servers import Proxy


class TestTheWayThere:
    """Between a replica and Redis."""

    @pytest.mark.parametrize("url", ["", "?socket_timeout=3"])
    def test_a_slow_link_is_no_outage(self, server, made, caplog, url):
        """0.35 s for a round trip: up, once it was measured, and what fails opens."""
        caplog.set_level(logging.INFO, "redis_router")
        proxy = Proxy(server.port)
        proxy.delay = 0.35
        try:
            router = made(f"redis://router:password@127.0.0.1:{proxy.port}/0{url}")
            eventually(lambda: router.redis_up)
            caplog.clear()
            before = proxy.replies
            eventually(lambda: proxy.replies >= before + 5, "pings and their answers go to and fro")
            fail(router)
            until(router, "open")
            assert not said(caplog, "out of touch")
            assert router.redis_up
        finally:
            proxy.close()

    def test_deciding_does_not_wait_for_a_connect(self, server, monkeypatch, made):
        """Redis goes, and each look-up of its name hangs: the breaker of this replica decides meanwhile."""
        router = made(f"redis://router:password@localhost:{server.port}/0")
        over = threading.Event()
        resolve = socket.getaddrinfo

        def hangs(*args, **options):
            over.wait(60.0)
            return resolve(*args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", hangs)
        try:
            server.stop()
            fail(router)
            eventually(lambda: router.get_circuit_state("broken") == "open", "decided alone", 8)
            assert not router.redis_up
            assert router.select_provider("m").name == "healthy"
        finally:
            over.set()
            monkeypatch.undo()
        server.start()
        let_in(server)
        eventually(lambda: router.redis_up, "back", 20)
