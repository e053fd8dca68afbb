"""The soak's processes and servers, and how a fault speaks to them. The faults are in `faults`, `records`, `links`."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis

from benchmarks.chaos import truth
from redis_router.errors import RouterError
from redis_router.store.connect import connect
from redis_router.store.keys import Keys
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer
from tests.support.documents import said_once
from tests.support.servers import Proxy, Sentinels, end, eventually

REPLICAS = 6
WORKERS = 2
LEASE = 2.0
KEYS = Keys("rr")
Line = dict[str, Any]
SHUNNED = "gamma"
"""The provider whose circuit takes two replicas' complaints to open: so that it has a list of reporters."""


def rights() -> list[str]:
    """What the documents say a user needs, and what the ledger takes."""
    said = said_once(r"^ACL SETUSER router on >password (~rr:\* &rr:events .+)$")
    return ["on", ">password", *said.split(), "+rpush"]


class Tail:
    """The lines of a journal that grows; each is read once. One that a kill cut short is left out."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._offset = 0
        self._lines: list[Line] = []

    def read(self) -> list[Line]:
        """All lines so far."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")
            self._offset += len(whole[0]) + len(whole[1])
            self._lines += [{"replica": self._name, **json.loads(text)} for text in whole[0].splitlines()]
        return self._lines


class Fleet:
    """Six replicas and two workers on a master that sentinels watch over."""

    def __init__(self, servers: Sentinels, folder: Path, seed: int, mutation: str, stack: ExitStack) -> None:
        self.servers = servers
        self.folder = folder
        self.seed = seed
        self.mutation = mutation
        self.draw = random.Random(seed)
        self.replicas: dict[str, subprocess.Popen[str]] = {}
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self.lines: list[Line] = []
        self.ledgers: list[list[str]] = []
        self.streams: list[tuple[str, list[Line]]] = []
        self._started = 0
        self._stack = stack
        self._tails: dict[str, Tail] = {}
        self.servers_by_port = {server.port: server for server in (servers.master, servers.replica)}
        self.proxies = {port: Proxy(port) for port in self.servers_by_port}
        for port, proxy in self.proxies.items():
            stack.callback(proxy.close)
            self.grant(port)
        self.url = servers.url.replace("://", "://router:password@")
        for _ in range(WORKERS):
            self.start_worker()
        for _ in range(REPLICAS):
            self.start_replica()
        self.store().update(SHUNNED, {"min_reporters": "2"})
        self._master, self._quiet_since = self.server(), time.time()
        assert all(proxy.taken for port, proxy in self.proxies.items() if port == self.server().port), (
            "nobody came through the proxy"
        )

    # Processes

    def start_replica(self) -> str:
        self._started += 1
        name = f"gw-{self._started}"
        command = ["-m", "benchmarks.chaos.replica", "--redis", self.url, "--name", name]
        command += ["--seed", str(self.seed), "--journal", str(self.journal(name)), "--mutate", self.mutation]
        command += ["--proxies", self._proxies()]
        self.replicas[name] = self._run(command)
        eventually(lambda: any(line["what"] == "ready" for line in self.read(name)), f"{name} is ready", 30)
        return name

    def start_worker(self) -> str:
        self._started += 1
        name = f"worker-{self._started}"
        options = ["--interval", "1", "--lease", str(LEASE), "--metrics-port", "0", "--name", name]
        self.workers[name] = self._run(["-m", "benchmarks.chaos.worker", "--redis", self.url, *options])
        return name

    def _proxies(self) -> str:
        return json.dumps({port: proxy.port for port, proxy in self.proxies.items()})

    def _run(self, command: list[str]) -> "subprocess.Popen[str]":
        log = self._stack.enter_context((self.folder / f"log-{self._started}").open("w"))
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
            env={**os.environ, "PROXIES": self._proxies()},
        )
        self._stack.callback(end, process)
        return process

    def journal(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def read(self, name: str) -> list[Line]:
        """What a replica wrote so far."""
        return self._tails.setdefault(name, Tail(self.journal(name), name)).read()

    def since(self, name: str, moment: float, what: str) -> list[Line]:
        """What it wrote of this kind from a moment on."""
        found = []
        for line in reversed(self.read(name)):
            if line["t"] < moment:
                break
            if line["what"] == what:
                found.append(line)
        return found[::-1]

    def tell(self, command: str, names: Iterable[str] | None = None) -> None:
        """A command for these replicas, or for all."""
        for name in self.replicas if names is None else names:
            process = self.replicas[name]
            assert process.stdin is not None
            process.stdin.write(f"{command}\n")
            process.stdin.flush()

    def ailing(self) -> list[str]:
        """Processes that ended though nobody ended them, and tracebacks in what they printed."""
        running = {**self.replicas, **self.workers}
        found = [f"{name} ended by itself: {p.returncode}" for name, p in running.items() if p.poll() is not None]
        for log in self.folder.glob("log-*"):
            text = log.read_text()
            if "Traceback" in text or "and goes on" in text:
                found.append(f"{log.name}: {text[-2000:]}")
        return found

    # Servers

    def server(self) -> EmbeddedServer:
        """The master's."""
        return self.servers_by_port[self.servers.master_port()]

    def grant(self, port: int) -> None:
        """Give the fleet's user all the rights that it should have, at one server; they are not replicated."""
        with redis.Redis(port=port) as admin:
            admin.execute_command("ACL", "SETUSER", "router", "reset", *rights())

    def admin(self) -> "redis.Redis[bytes]":
        """To the master, as a user that may do anything; bytes as they are."""
        return redis.Redis(port=self.server().port, socket_timeout=5)

    def store(self) -> RedisStore:
        return RedisStore(connect(self.servers.url), "rr", "chaos")

    def wait_served(self, since: EmbeddedServer | None = None, timeout: float = 60.0) -> None:
        """Until the master takes writes; another one than `since`."""

        def served() -> bool:
            with suppress(RouterError, redis.RedisError, OSError):
                if since is None or self.server() is not since:
                    self.store().client.set("rr:chaos:alive", "1", px=100)
                    return True
            return False

        eventually(served, "the master serves", timeout)

    def wait_agreed(self) -> None:
        """Until all sentinels name one master and none is about to choose another: it might choose an empty server."""

        def agreed() -> bool:
            named = set()
            for port in self.servers.ports:
                with suppress(redis.RedisError, OSError), redis.Redis(port=port, decode_responses=True) as sentinel:
                    said = sentinel.sentinel_master("mymaster")
                    named.add((said["port"], said["flags"]))
            return named == {(self.servers.master_port(), "master")}

        eventually(agreed, "the sentinels agree on a master", 60)

    def wait_replicated(self) -> None:
        """Until both servers run and one has what the other wrote, so that the next fault finds a whole set."""

        def whole() -> bool:
            with suppress(redis.RedisError, OSError), self.admin() as master:
                master.set("rr:chaos:whole", time.time(), px=1000)  # WAIT is about what its own connection wrote
                return bool(master.wait(1, 200))
            return False

        eventually(whole, "the replica follows the master", 60)
        self.wait_agreed()

    def keep_history(self) -> None:
        """Read the ledgers and streams: now, and before they are lost."""
        with self.admin() as admin:
            for provider in truth.PROVIDERS:
                self.ledgers.append([_text(entry) for entry in admin.lrange(f"{KEYS.health(provider)}:ledger", 0, -1)])
                entries = [
                    {"at": int(key.partition(b"-")[0]) / 1000, **{_text(k): _text(v) for k, v in entry.items()}}
                    for key, entry in admin.xrange(KEYS.events(provider))
                ]
                self.streams.append((provider, entries))

    def harm(self, kind: str, fault: "Callable[[Fleet, Line], None]") -> None:
        """One fault, and what it takes to be whole again; noted with its moments."""
        self.note_failover()
        before = self.server()
        line: Line = {"replica": "", "what": "fault", "kind": kind, "t": time.time()}
        fault(self, line)
        self._master, self._quiet_since = self.server(), time.time()
        line["failed_over"] = self._master is not before
        line["until"] = self._quiet_since
        self.lines.append(line)

    def note_failover(self) -> None:
        """A fault of the machine: where it is short of CPU, the sentinels choose another master between two faults."""
        if self.server() is not self._master:
            window = {"t": self._quiet_since, "until": time.time(), "failed_over": True}
            self.lines.append({"replica": "", "what": "fault", "kind": "unplanned_failover", **window})
            self._master = self.server()

    def fields(self, provider: str) -> dict[bytes, bytes]:
        """A provider's record as it stands; {} where there is none, or none that can be read."""
        with suppress(redis.RedisError, OSError), self.admin() as admin:
            return admin.hgetall(KEYS.health(provider))
        return {}

    def state(self, provider: str) -> str:
        """Its circuit in Redis; '' where there is no record."""
        return self.fields(provider).get(b"circuit_state", b"").decode(errors="replace")

    def one_closed(self, among: Iterable[str] = truth.PROVIDERS) -> str:
        """A provider whose circuit is closed now, of these; where none is, for some seconds, any."""
        among = list(among)
        self.draw.shuffle(among)
        within(5.0, lambda: any(self.state(name) == "closed" for name in among))
        return next((name for name in among if self.state(name) == "closed"), among[0])


def _text(said: bytes) -> str:
    """Readable, also where a fault wrote what is not."""
    return said.decode(errors="replace")


def within(seconds: float, condition: Callable[[], Any], began: float | None = None) -> float | None:
    """How many seconds after `began` (now) it came true; None where it did not."""
    began = time.time() if began is None else began
    while not condition():
        if time.time() - began > seconds:
            return None
        time.sleep(0.05)
    return round(time.time() - began, 3)
