"""Redis answers and does not serve: out of memory, read-only, busy, loading."""

import logging
import shutil
import threading
from contextlib import contextmanager, suppress

import pytest
import redis

from redis_router import (
    RouterError,
)
from redis_router.testing.server import EmbeddedServer, free_port
from tests.faults.away import OPENAI, touches
from tests.support import eventually, metric
from tests.support.fleet import refresh


@pytest.fixture
def server():
    """One that takes its time to read its data, where it has any."""
    with EmbeddedServer(None, "--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024") as server:
        yield server


@contextmanager
def settings(admin, **values):
    """These settings for a while."""
    before = {}
    for key, value in values.items():
        name = key.replace("_", "-")
        before.update(admin.config_get(name))
        admin.config_set(name, value)
    yield
    for name, value in before.items():
        admin.config_set(name, value)


@contextmanager
def out_of_memory(server, admin):
    with settings(admin, maxmemory="1"):
        yield


@contextmanager
def without_its_replicas(server, admin):
    with settings(admin, min_replicas_to_write="3"):
        yield


@contextmanager
def read_only(server, admin):
    """What a master is after a failover, for those who did not notice."""
    admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    yield
    admin.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def unable_to_save(server, admin):
    shutil.rmtree(admin.config_get("dir")["dir"])  # where it would write
    admin.config_set("save", "3600 1")
    with suppress(redis.ResponseError):
        admin.bgsave()
    eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    admin.config_set("save", "")


@contextmanager
def busy_with_a_script(server, admin):
    admin.config_set("lua-time-limit", "20")
    other = redis.Redis(port=server.port)

    def run():
        with suppress(redis.RedisError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: is_busy(admin))
    yield
    admin.script_kill()
    thread.join()
    other.close()


def is_busy(admin):
    try:
        admin.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@contextmanager
def loading(server, admin):
    """It restarts with its data, and takes its time to read it."""
    for number in range(300):
        admin.set(f"filler:{number}", "x" * 4096)
    admin.save()
    server.stop()
    server.start()
    assert admin.info("persistence")["loading"] == 1
    yield
    eventually(lambda: admin.info("persistence")["loading"] == 0)


TROUBLES = [out_of_memory, without_its_replicas, read_only, unable_to_save, busy_with_a_script, loading]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_a_server_that_does_not_serve_for_a_while(server, replica, caplog, trouble):
    """Nothing is lost: the results wait, and are applied once. It may still let us read, and yet it is down for us."""
    caplog.set_level(logging.INFO, "redis_router")
    admin = redis.Redis(port=server.port, decode_responses=True)
    with trouble(server, admin):
        for _ in range(10):
            replica.record_result("openai", success=True, latency_ms=5.0)
        eventually(lambda: not replica.redis_up, "the replica noticed")
        assert replica.select_provider("m") is OPENAI
        with suppress(RouterError):
            refresh(replica)
        assert not replica.redis_up
    assert replica.flush(10)
    assert replica.get_health_status()["openai"].consecutive_successes == 10
    assert metric(replica, "results_dropped_total", reason="refused") == 0
    edges = eventually(lambda: len(edges := touches(caplog)) >= 2 and edges)
    assert ["out of" in edge for edge in edges] == [True, False], edges
    admin.close()


def test_a_script_cache_that_was_flushed(admin, replica):
    """No trouble at all."""
    for number in range(1, 4):
        admin.script_flush()
        replica.record_result("openai", success=True, latency_ms=5.0)
        assert replica.flush()
        assert replica.get_health_status()["openai"].consecutive_successes == number
    assert replica.redis_up
