"""Several gateways on one Redis: one circuit for all, and a restart that nobody notices."""

import threading

import httpx2
import openai
import pytest

from redis_router.testing.server import EmbeddedServer, free_port
from tests.gateway.conftest import KEYS
from tests.support import eventually
from tests.support.balancer import balancer
from tests.support.gateways import KEY, entry, write
from tests.support.http import ANSWER

QUESTION = {"messages": [{"role": "user", "content": "Hello?"}]}
SETTINGS = {"gateway_settings": {"keys": KEYS, "strategy": "weighted"}}


@pytest.fixture
def path(servers, tmp_path):
    first, second = servers
    entries = [entry("a", "one", first.url, weight=1e6), entry("a", "two", second.url, weight=1e-6)]
    return write(tmp_path / "config.yaml", entries, **SETTINGS)


@pytest.fixture
def redis(one_real):
    """Options of a gateway."""
    return ("--redis", one_real.url, "--namespace", one_real.namespace)


def test_what_one_learns_the_others_know(started, servers, path, redis):
    """Three failures through one gateway, and the other one asks the broken provider no more."""
    one, other = (started(path, *redis, "--drain-seconds", "0") for _ in range(2))
    servers[0].faults.extend([(503, {})] * 50)
    for _ in range(3):
        assert one.ask(json={**QUESTION, "model": "a"}).status_code == 200
    asked = len(servers[0].asked)
    assert asked == 3
    is_open = 'circuit_state{provider="one",state="open"} 1.0'
    eventually(lambda: is_open in other.ask("/metrics").text)
    for _ in range(10):
        assert other.ask(json={**QUESTION, "model": "a"}).headers["x-redis-router-provider"] == "two"
    assert len(servers[0].asked) == asked


@pytest.mark.parametrize("stream", [False, True])
def test_a_rolling_restart_loses_no_request(started, servers, path, redis, stream):
    """Gateways behind a balancer that are replaced one by one; eight clients without retries notice nothing."""
    for server in servers:
        server.always = "slow"
    failed, answered, ended = [], [0], threading.Event()
    options = (*redis, "--drain-seconds", "1")
    with balancer() as balanced:
        running = [started(path, *options) for _ in range(2)]
        balanced.ports = [each.port for each in running]

        def keeps_asking():
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{balanced.port}/v1", api_key=KEY, max_retries=0)
            while not ended.is_set():
                try:
                    said = client.chat.completions.create(**QUESTION, model="a", stream=stream)
                    text = "".join(each.choices[0].delta.content or "" for each in said) if stream else None
                    assert (text if stream else said.choices[0].message.content) == "".join(ANSWER)
                    answered[0] += 1
                except Exception as error:
                    failed.append(repr(error))
            client.close()

        eventually(lambda: len(balanced._ready) == 2)
        clients = [threading.Thread(target=keeps_asking) for _ in range(8)]
        for each in clients:
            each.start()
        for old in running:
            fresh = started(path, *options)
            balanced.ports.append(fresh.port)
            eventually(lambda port=fresh.port: port in balanced._ready)
            before = answered[0]
            assert old.end() == 0
            balanced.ports.remove(old.port)
            eventually(lambda before=before: answered[0] > before + 20)
        ended.set()
        for each in clients:
            each.join()
    assert failed == []
    assert answered[0] > 50


def test_a_stream_under_way_is_finished_after_sigterm(started, servers, path):
    gateway = started(path, "--drain-seconds", "0.2")
    servers[0].faults.append("paused")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)
    said = iter(client.chat.completions.create(**QUESTION, model="a", stream=True))
    seen = [next(said)]
    gateway.process.terminate()
    eventually(lambda: any("drains" in line for line in gateway.log))
    gateway.http.close()
    servers[0].goes_on.set()
    seen += said
    assert "".join(each.choices[0].delta.content or "" for each in seen) == "".join(ANSWER)
    assert gateway.process.wait(20) == 0
    client.close()


def test_what_does_not_end_in_time_is_cut_off(started, servers, path):
    gateway = started(path, "--drain-seconds", "0", "--end-seconds", "1")
    servers[0].faults.append("paused")
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)
    said = client.chat.completions.create(**QUESTION, model="a", stream=True)
    gateway.process.terminate()
    with pytest.raises((openai.APIError, httpx2.TransportError)):
        list(said)
    assert gateway.process.wait(20) == 0
    client.close()


def test_while_redis_is_away_requests_are_served(started, servers, path):
    with EmbeddedServer() as server:
        gateway = started(path, "--redis", server.url, "--drain-seconds", "0")
        server.stop()
        eventually(lambda: gateway.ask("/readyz").json()["redis_up"] is False)
        for _ in range(5):
            assert gateway.ask(json={**QUESTION, "model": "a"}).status_code == 200
        assert gateway.ask("/readyz").status_code == 200
        server.start()
        eventually(lambda: gateway.ask("/readyz").json()["redis_up"] is True)


def test_it_starts_where_redis_is_away(started, servers, path):
    gateway = started(path, "--redis", f"redis://127.0.0.1:{free_port()}/0", "--drain-seconds", "0")
    assert gateway.ask(json={**QUESTION, "model": "a"}).status_code == 200
