"""docker-compose.yml: every service of ours is started as a process, with its command line and its file."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from redis_router.store.connect import connect
from redis_router.testing.server import EmbeddedServer
from tests.support import eventually
from tests.support.containers import PROGRAMS, Container

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "redis-router"}
(ENTRYPOINT,) = re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
SCRAPED = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
PAGE = 9464


def of_kind(kind: str) -> list[str]:
    """Services by the beginning of their names."""
    return [name for name in OURS if name.startswith(kind)]


def inner(service: dict[str, Any]) -> int:
    """The port that a service listens on in its container."""
    ports = service.get("ports", [f"127.0.0.1::{PAGE}"])
    return int(ports[0].rpartition(":")[2])


class Fleet:
    """The services that were started, by their names."""

    def __init__(self, folder: Path, redis: str) -> None:
        self.folder = folder
        self.running: dict[str, Container] = {}
        self.inside = {"redis:6379": redis.removeprefix("redis://").removesuffix("/0")}

    def start(self, name: str) -> None:
        service = OURS[name]
        entry = service.get("entrypoint") or yaml.safe_load(ENTRYPOINT)
        argv, env = [*entry, *shlex.split(service["command"])], service.get("environment", {})
        port = inner(service)
        if name.startswith("worker"):
            argv += ["--metrics-port", str(port)]
        for volume in service.get("volumes", ()):
            self.inside[volume.split(":")[1]] = str(self._mounted(ROOT / volume.split(":")[0]))
        made = Container(argv, env, self.inside, port, self.folder / f"{name}.log")
        self.running[name] = made
        self.inside[f"//{name}:{port}"] = f"//127.0.0.1:{made.port}"

    def _mounted(self, folder: Path) -> Path:
        """A copy, with the addresses that there are here."""
        found = self.folder / folder.name
        found.mkdir(exist_ok=True)
        for path in folder.iterdir():
            text = path.read_text()
            for theirs, ours in self.inside.items():
                text = text.replace(theirs, ours)
            (found / path.name).write_text(text)
        return found

    def at(self, address: str) -> str:
        """Where the services' ports on this machine are, for a command of the file's head."""
        for name, service in OURS.items():
            for port in service.get("ports", ()):
                _, ours, _ = port.split(":")
                address = address.replace(f"localhost:{ours}/", f"127.0.0.1:{self.running[name].port}/")
        return address


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with EmbeddedServer() as server:
        made = Fleet(tmp_path, server.url)
        try:
            for name in OURS:
                made.start(name)
            for name in OURS:
                made.running[name].answers("/readyz" if name.startswith("gateway") else "/healthz")
            yield made
        finally:
            for each in made.running.values():
                each.kill()


def curl(fleet: Fleet, words: str) -> httpx.Response:
    """What the head's `curl` does."""
    (line,) = [line for line in TEXT.splitlines() if line.startswith("#   curl") and words in line]
    _, *arguments = shlex.split(re.split(r" {3,}", line.lstrip("# "))[0])
    (address,) = [each for each in arguments if each.startswith("localhost")]
    body = arguments[arguments.index("-d") + 1] if "-d" in arguments else ""
    heads = {"content-type": "application/x-www-form-urlencoded"} if body else {}
    return httpx.post(fleet.at(f"http://{address}"), content=body, headers=heads, trust_env=False, timeout=20)


def answered(fleet: Fleet) -> str:
    """By which provider."""
    said = curl(fleet, "chat/completions")
    assert said.status_code == 200, said.text
    assert said.json()["choices"][0]["message"]["content"].startswith("Hello from ")
    return said.headers["x-redis-router-provider"]


def test_the_services_are_those_of_the_page():
    """Two workers, three gateways, three providers of which every gateway's file names each."""
    assert [len(of_kind(kind)) for kind in ("worker", "gateway")] == [2, 3]
    listed = yaml.safe_load((ROOT / "deploy" / "gateway" / "config.yaml").read_text())["model_list"]
    providers = [each["model_info"]["id"] for each in listed]
    assert OURS.keys() == {*of_kind("worker"), *of_kind("gateway"), *providers}


def a_provider_fails_and_is_healed(fleet: Fleet) -> None:
    """It answers; where a provider fails the others answer, Redis tells, and it is asked again when it is healed."""
    assert answered(fleet) in OURS
    assert "failing=True" in curl(fleet, "failing=true").text

    def is_noticed() -> bool:
        answered(fleet)
        with connect(f"redis://{fleet.inside['redis:6379']}/0") as client:
            return float(client.hget("rr:{alpha}:health", "failure_rate") or 0) > 0.1

    assert "HGETALL 'rr:{alpha}:health'" in TEXT
    eventually(is_noticed, "alpha's failures are known", 60)
    assert "alpha" not in {answered(fleet) for _ in range(10)}
    healed = fleet.at("http://localhost:9001/admin?failing=false")
    assert "failing=False" in httpx.post(healed, trust_env=False).text
    eventually(lambda: answered(fleet) == "alpha", "alpha answers again", 60)


def health_is_checked(fleet: Fleet) -> None:
    """Each command, run as it stands but for the port."""
    checked = [name for name in OURS if "healthcheck" in OURS[name]]
    assert checked == [*of_kind("gateway"), *of_kind("worker")]
    for name in checked:
        _, program, *arguments = OURS[name]["healthcheck"]["test"]
        running, port = fleet.running[name], inner(OURS[name])
        command = [*PROGRAMS[program], *(each.replace(f":{port}/", f":{running.port}/") for each in arguments)]
        assert command != [*PROGRAMS[program], *arguments]
        subprocess.run(command, check=True, timeout=60)


def prometheus_scrapes(fleet: Fleet) -> None:
    """Each target is a service, at the port that it listens on, and shows what the rules are about."""
    targets = [target for job in SCRAPED for each in job["static_configs"] for target in each["targets"]]
    assert targets == [f"{name}:{inner(OURS[name])}" for name in (*of_kind("gateway"), *of_kind("worker"))]
    for target in targets:
        assert "redis_router_redis_up 1.0" in fleet.running[target.partition(":")[0]].get("/metrics")[1]
    answered(fleet)
    counted = 'redis_router_gateway_requests_total{key="-",path="/v1/chat/completions",status="200"}'
    assert counted in fleet.running["gateway-1"].get("/metrics")[1]


def the_page_is_there(fleet: Fleet) -> None:
    """Of the second worker; it sees all providers."""
    assert "http://localhost:9464/ " in TEXT
    status, page = fleet.running["worker-2"].get("/")
    assert status == 200
    assert "<html" in page


def the_file_changes(fleet: Fleet) -> None:
    """As its head says; the gateway's log tells."""
    path = fleet.folder / "gateway" / "config.yaml"
    path.write_text(path.read_text().replace("deadline: 30", "deadline: 29"))
    for name in of_kind("gateway"):
        eventually(lambda name=name: "is in force: 3 providers" in fleet.running[name].log, name)


def a_gateway_ends_within_its_time(fleet: Fleet) -> None:
    """It drains, and ends with 0; the grace period is longer than its own periods are together."""
    gateway = fleet.running["gateway-3"]
    assert gateway.end() == 0
    assert "gateway drains: it answers for 5 s more" in gateway.log
    for name in of_kind("gateway"):
        assert int(OURS[name]["stop_grace_period"].removesuffix("s")) > 5 + 60 + 5


def the_other_worker_takes_over(fleet: Fleet) -> None:
    """As the head says, after the first one was killed."""
    fleet.running["worker-1"].kill()
    eventually(lambda: fleet.running["worker-2"].get("/readyz") == (200, "leader\n"), "it leads", 60)


def test_a_fleet_is_started_by_it_and_does_what_its_head_says(fleet):
    """One for all, as nine processes take their time."""
    for step in (
        health_is_checked,
        prometheus_scrapes,
        the_page_is_there,
        a_provider_fails_and_is_healed,
        the_file_changes,
        a_gateway_ends_within_its_time,
        the_other_worker_takes_over,
    ):
        step(fleet)
