"""deploy/kubernetes/gateway.yml: its container is started as a process, with the file, the variables and the probes."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from redis_router.testing.server import redis_server
from tests.docs.test_deploy import FILES, SECRETS, container, named
from tests.support import eventually
from tests.support.containers import Container
from tests.support.gateways import KEY
from tests.support.http import LlmServer, llm_server

GATEWAY = named("redis-router-gateway")
POD, OWN = GATEWAY["spec"]["template"]["spec"], container(GATEWAY)
(CONFIG,) = [each for each in FILES["gateway.yml"] if each["kind"] == "ConfigMap"]
(MOUNT,) = [each["mountPath"] for each in OWN["volumeMounts"] if each["name"] == "config"]
FILE = yaml.safe_load(CONFIG["data"]["config.yaml"])
OPTIONS = dict(each.removeprefix("--").split("=") for each in OWN["args"] if "=" in each)
HEADS = {"authorization": f"Bearer {KEY}"}


class ConfigVolume:
    """A folder as Kubernetes keeps one: each name is a link into `..data`, which is a link to the newest version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._versions = 0

    def bring(self, text: str) -> None:
        """A new version, at once: the link is replaced by another one."""
        version = self.folder / f"..2026_{self._versions}"
        self._versions += 1
        version.mkdir()
        (version / "config.yaml").write_text(text)
        before = (self.folder / "..data").resolve() if (self.folder / "..data").exists() else None
        (self.folder / "..data_tmp").symlink_to(version.name)
        os.replace(self.folder / "..data_tmp", self.folder / "..data")
        if before is None:
            (self.folder / "config.yaml").symlink_to("..data/config.yaml")
        else:
            (before / "config.yaml").unlink()
            before.rmdir()


def adapted(server: LlmServer, **settings: Any) -> dict[str, Any]:
    """The file with our server in the providers' places, and with a key that we have."""
    parsed: dict[str, Any] = yaml.safe_load(CONFIG["data"]["config.yaml"])
    for each in parsed["model_list"]:
        given = each["litellm_params"]
        given["api_base"] = server.url + urlsplit(given["api_base"]).path
    (key,) = parsed["gateway_settings"]["keys"]
    key["sha256"] = hashlib.sha256(KEY.encode()).hexdigest()
    parsed["gateway_settings"] |= settings
    return parsed


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with llm_server() as made:
        yield made


@pytest.fixture
def volume(tmp_path: Path) -> ConfigVolume:
    return ConfigVolume(tmp_path / "config")


@pytest.fixture
def pod(tmp_path: Path, server: LlmServer, volume: ConfigVolume) -> Iterator[Container]:
    """The container, with its variables as Kubernetes fills them in; only a Redis, an address and a port are ours."""
    volume.bring(yaml.safe_dump(adapted(server)))
    secrets = {each["metadata"]["name"]: each["stringData"] for each in SECRETS}
    with redis_server() as redis:
        secrets["redis-router"] |= {"url": redis}
        env = {}
        for each in OWN["envFrom"]:
            env |= secrets[each["secretRef"]["name"]]
        for each in OWN["env"]:
            asked = each["valueFrom"]["secretKeyRef"]
            env[each["name"]] = secrets[asked["name"]][asked["key"]]
        argv = [*OWN["command"], *OWN["args"]]
        (port,) = [each["containerPort"] for each in OWN["ports"]]
        made = Container(argv, env, {MOUNT: str(volume.folder)}, port, tmp_path / "log")
        try:
            made.answers(OWN["startupProbe"]["httpGet"]["path"])
            yield made
        finally:
            made.kill()


def asks(pod: Container, model: str = "gpt-4o", **more: Any) -> httpx.Response:
    question = {"model": model, "messages": [{"role": "user", "content": "Hello?"}], **more}
    url = f"{pod.url}/v1/chat/completions"
    return httpx.post(url, json=question, headers=HEADS, trust_env=False, timeout=20)


def test_it_serves_with_the_keys_of_the_secret(pod, server):
    """Ready by the probe; a client with a key is answered, one without is not; the fleet's Redis is in use."""
    assert pod.get(OWN["readinessProbe"]["httpGet"]["path"])[0] == 200
    assert pod.get(OWN["livenessProbe"]["httpGet"]["path"])[0] == 200
    assert asks(pod).status_code == 200
    ((_, heads),) = server.heads
    (secret,) = [each["stringData"] for each in SECRETS if each["metadata"]["name"] == "redis-router-gateway"]
    assert heads["authorization"].removeprefix("Bearer ") in secret.values() or heads["api-key"] in secret.values()
    assert httpx.post(f"{pod.url}/v1/chat/completions", json={}, trust_env=False).status_code == 401
    eventually(lambda: "redis_router_redis_up 1.0" in pod.get("/metrics")[1])


def test_the_key_of_the_file_is_nobodys(pod, server, volume):
    """Whoever applies the file as it stands lets nobody in."""
    volume.bring(CONFIG["data"]["config.yaml"])
    eventually(lambda: asks(pod).status_code == 401)
    assert KEY not in CONFIG["data"]["config.yaml"]


def test_a_config_map_that_changes_is_read_again(pod, server, volume):
    """By the swap of the link; one that is wrong is refused and counted, and the next one is taken."""
    refused = 'redis_router_gateway_config_reloads_total{result="refused"} 1.0'
    assert asks(pod, "gpt-5").status_code == 404
    changed = adapted(server)
    changed["model_list"][0]["model_name"] = "gpt-5"
    volume.bring(yaml.safe_dump(changed))
    eventually(lambda: asks(pod, "gpt-5").status_code == 200)
    volume.bring("model_list: [")
    eventually(lambda: refused in pod.get("/metrics")[1])
    assert asks(pod, "gpt-5").status_code == 200
    volume.bring(yaml.safe_dump(adapted(server)))
    eventually(lambda: asks(pod, "gpt-5").status_code == 404)
    assert asks(pod).status_code == 200


def test_it_ends_within_the_time_that_it_is_given(pod, server):
    """Not ready any more, and yet it answers; then what is under way is finished, and its exit code is 0."""
    server.always = "paused"
    with httpx.Client(trust_env=False, timeout=60) as client:
        question = {"model": "gpt-4o", "messages": [], "stream": True}
        with client.stream("POST", f"{pod.url}/v1/chat/completions", json=question, headers=HEADS) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.always = None
            pod.process.terminate()
            pod.answers(OWN["readinessProbe"]["httpGet"]["path"], 503)
            assert asks(pod).status_code == 200
            eventually(lambda: pod.get("/healthz")[0] == 0, "it listens no more", 30)
            server.goes_on.set()
            assert list(lines)[-2] == "data: [DONE]"
    assert pod.process.wait(20) == 0


def test_its_periods_fit_together():
    """No request may last longer than what is under way is given, and that is all within the grace period."""
    drain, end = float(OPTIONS["drain-seconds"]), float(OPTIONS["end-seconds"])
    assert max(FILE["gateway_settings"][name] for name in ("deadline", "longest_deadline")) <= end
    assert POD["terminationGracePeriodSeconds"] >= drain + end + 5 + 5  # the router's close, and a margin
    probe = OWN["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < drain
    assert GATEWAY["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_it_has_what_it_mounts():
    """The volume is the ConfigMap of the file, without subPath; /tmp may be written to."""
    volumes = {each["name"]: each for each in POD["volumes"]}
    assert volumes["config"]["configMap"]["name"] == CONFIG["metadata"]["name"]
    assert volumes["tmp"].keys() == {"name", "emptyDir"}
    mounts = {each["name"]: each for each in OWN["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert not any("subPath" in each for each in mounts.values())
    assert OPTIONS["config"] == f"{mounts['config']['mountPath']}/config.yaml"
    assert mounts["tmp"]["mountPath"] == "/tmp"
