"""The file is read again while requests are under way."""

import json
import signal
import socket

import httpx
import pytest

from tests.gateway.conftest import KEYS
from tests.support import eventually
from tests.support.gateways import KEY, entry, write
from tests.support.http import ANSWER

QUESTION = {"messages": [{"role": "user", "content": "Hello?"}]}
SETTINGS = {"gateway_settings": {"keys": KEYS}}


def models_of(gateway):
    return [each["id"] for each in gateway.ask("/v1/models").json()["data"]]


def asks(gateway, model):
    return gateway.ask(json={**QUESTION, "model": model})


def test_what_the_new_file_says_is_in_force(started, servers, tmp_path):
    first, second = servers
    path = write(tmp_path / "config.yaml", [entry("a", "one", first.url)], **SETTINGS)
    gateway = started(path, "--drain-seconds", "0")
    assert asks(gateway, "a").headers["x-redis-router-provider"] == "one"
    write(path, [entry("b", "one", second.url), entry("b", "two", second.url)], **SETTINGS)
    eventually(lambda: models_of(gateway) == ["b"])
    assert asks(gateway, "a").status_code == 404
    assert {asks(gateway, "b").status_code for _ in range(5)} == {200}
    assert len(second.asked) == 5  # `one` is somewhere else now
    assert 'config_reloads_total{result="ok"} 1.0' in gateway.ask("/metrics").text


@pytest.mark.parametrize("bad", ["model_list: [", "model_list: 7", "", "model_list: [{model_name: x}]"])
def test_a_file_that_is_wrong_changes_nothing(started, servers, tmp_path, bad):
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)], **SETTINGS)
    gateway = started(path, "--drain-seconds", "0")
    path.write_text(bad)
    eventually(lambda: 'config_reloads_total{result="refused"} 1.0' in gateway.ask("/metrics").text)
    assert asks(gateway, "a").status_code == 200
    eventually(lambda: any("is not taken" in line and "config.yaml" in line for line in gateway.log))
    assert "config_last_reload_successful 0.0" in gateway.ask("/metrics").text
    path.unlink()
    eventually(lambda: 'config_reloads_total{result="refused"} 2.0' in gateway.ask("/metrics").text)
    assert asks(gateway, "a").status_code == 200
    write(path, [entry("b", "one", servers[0].url)], **SETTINGS)
    eventually(lambda: models_of(gateway) == ["b"])
    assert "config_last_reload_successful 1.0" in gateway.ask("/metrics").text


def test_a_key_that_is_taken_out_opens_nothing_any_more(started, servers, tmp_path):
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)], **SETTINGS)
    gateway = started(path, "--drain-seconds", "0")
    assert asks(gateway, "a").status_code == 200
    other = {"keys": [{"name": "other", "sha256": "0" * 64}]}
    write(path, [entry("a", "one", servers[0].url)], gateway_settings=other)
    eventually(lambda: asks(gateway, "a").status_code == 401)


def test_on_sighup_a_file_that_looks_the_same_is_read_again(started, servers, tmp_path):
    """A variable of the environment is the process's own, so nothing else changed; it is counted."""
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)], **SETTINGS)
    gateway = started(path, "--drain-seconds", "0")
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: 'config_reloads_total{result="ok"} 1.0' in gateway.ask("/metrics").text)
    assert asks(gateway, "a").status_code == 200


def test_a_stream_under_way_ends_as_it_began(started, servers, tmp_path):
    """Its provider is no longer in the file."""
    first, second = servers
    path = write(tmp_path / "config.yaml", [entry("a", "one", first.url)], **SETTINGS)
    gateway = started(path, "--drain-seconds", "0")
    first.faults.append("paused")
    asked, heads = {**QUESTION, "model": "a", "stream": True}, {"authorization": f"Bearer {KEY}"}
    with gateway.http.stream("POST", f"{gateway.url}/v1/chat/completions", json=asked, headers=heads) as answer:
        lines = answer.iter_lines()
        seen = [next(lines)]
        write(path, [entry("b", "two", second.url)], **SETTINGS)
        eventually(lambda: models_of(gateway) == ["b"])
        first.goes_on.set()
        seen += lines
    said = [json.loads(line[6:]) for line in seen if line.startswith("data: {")]
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in said) == "".join(ANSWER)
    assert seen[-2] == "data: [DONE]"


def test_a_weight_that_changes_is_the_fleets(started, servers, tmp_path):
    """With 0 a provider gets no calls any more."""
    settings = {"gateway_settings": {"keys": KEYS, "strategy": "weighted"}}
    one, two = entry("a", "one", servers[0].url), entry("a", "two", servers[1].url)
    path = write(tmp_path / "config.yaml", [one, two], **settings)
    gateway = started(path, "--drain-seconds", "0")
    eventually(lambda: asks(gateway, "a").headers["x-redis-router-provider"] == "one")
    one["litellm_params"]["weight"] = 0
    write(path, [one, two], **settings)
    eventually(lambda: 'config_reloads_total{result="ok"} 1.0' in gateway.ask("/metrics").text)
    assert {asks(gateway, "a").headers["x-redis-router-provider"] for _ in range(20)} == {"two"}


def test_several_processes_read_it_all(started, servers, tmp_path):
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)], **SETTINGS)
    gateway = started(path, "--drain-seconds", "0", "--workers", "2")
    write(path, [entry("b", "one", servers[0].url)], **SETTINGS)
    heads = {"authorization": f"Bearer {KEY}"}

    def seen():
        """By whichever process takes the connection."""
        answers = [httpx.get(f"{gateway.url}/v1/models", headers=heads, trust_env=False) for _ in range(20)]
        return {each["id"] for answer in answers for each in answer.json()["data"]}

    eventually(lambda: seen() == {"b"})


def test_no_process_outlives_the_one_that_started_it(started, servers, tmp_path):
    """It would keep the port from the gateway that is started in its place."""
    path = write(tmp_path / "config.yaml", [entry("a", "one", servers[0].url)], **SETTINGS)
    gateway = started(path, "--drain-seconds", "0", "--workers", "2")
    gateway.process.kill()

    def is_free():
        with socket.socket() as raw:
            return raw.connect_ex(("127.0.0.1", gateway.port)) != 0

    eventually(is_free)
