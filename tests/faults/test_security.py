"""TLS, logins, and secrets that show nowhere."""

import asyncio
import logging
import re
import ssl
import threading
from contextlib import contextmanager

import pytest
import redis
import trustme
from prometheus_client import CollectorRegistry, generate_latest

from redis_router import Provider, RedisRefused, Router
from redis_router.testing.server import EmbeddedServer
from tests.support import eventually

OPENAI = Provider("openai", ("m",))


@pytest.fixture
def server():
    with EmbeddedServer(password="correct-horse") as server:
        yield server


@contextmanager
def tls(port, context):
    """A TLS port in front of a server: not every server binary speaks TLS itself."""
    stop, ready = asyncio.Event(), threading.Event()
    listening = []

    async def serve(reader, writer):
        upstream = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, upstream[1]), pump(upstream[0], writer), return_exceptions=True)

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def run():
        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        listening.extend((listener.sockets[0].getsockname()[1], asyncio.get_running_loop()))
        ready.set()
        await stop.wait()
        listener.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(10)
    yield listening[0]
    listening[1].call_soon_threadsafe(stop.set)
    thread.join()


@pytest.mark.parametrize("trusted", [True, False])
def test_tls(server, tmp_path, caplog, trusted):
    """rediss:// checks the certificate; a stranger's is refused, and no word is sent in clear."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (authority if trusted else trustme.CA()).issue_cert("127.0.0.1").configure_cert(context)
    with tls(server.port, context) as port:
        url = f"rediss://:correct-horse@127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
        with Router(url, registry=CollectorRegistry()) as replica:
            replica.register_provider(OPENAI)
            replica.record_result("openai", success=True, latency_ms=5.0)
            assert replica.flush(5.0 if trusted else 0.1) is trusted
            assert replica.redis_up is trusted
            assert trusted or "CERTIFICATE_VERIFY_FAILED" in caplog.text


@pytest.mark.parametrize("right", ["-evalsha -eval", "-hget", "-subscribe"])
def test_a_missing_permission_is_named(server, right):
    """One clear error at start(), not a storm of tries."""
    with redis.Redis(port=server.port, password="correct-horse") as admin:
        admin.execute_command("ACL", "SETUSER", "gw", "on", ">pw", "~*", "&*", "+@all", *right.split())
        replica = Router(f"redis://gw:pw@127.0.0.1:{server.port}", registry=CollectorRegistry())
        replica.register_provider(OPENAI)
        with pytest.raises(RedisRefused, match="permission"):
            replica.start()
        before = admin.info("stats")["total_connections_received"]
        eventually(lambda: not any(t.name.startswith("redis-router") for t in threading.enumerate()), "no thread stays")
        assert admin.info("stats")["total_connections_received"] == before
        replica.close()


def test_secrets_show_nowhere(server, caplog):
    """Through a whole life, a failure included: logs, reprs, errors, metrics, what is stored."""
    caplog.set_level(logging.DEBUG)
    registry = CollectorRegistry()
    replica = Router(server.url, registry=registry)
    replica.register_provider(Provider("openai", ("m",), client="sk-correct-horse"))
    with replica:
        replica.record_result("openai", success=False, latency_ms=5.0)
        assert replica.flush()
        with redis.Redis(port=server.port, password="correct-horse") as admin:
            stored = str([admin.dump(key) for key in admin.scan_iter()])
        server.stop()
        eventually(lambda: not replica.redis_up)
    seen = [caplog.text, repr(replica), repr(replica.options), generate_latest(registry).decode(), stored]
    assert not re.search("correct-horse", "".join(seen))
