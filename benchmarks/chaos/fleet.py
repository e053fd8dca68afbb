"""The soak's processes, and the harm that is done to them. Each fault is real: a signal, a command, a dead process."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis

from benchmarks.chaos import truth
from benchmarks.servers import Sentinels, end, eventually
from redis_router.connect import connect
from redis_router.demo.server import EmbeddedServer
from redis_router.errors import RouterError
from redis_router.keys import Keys
from redis_router.store import Store

REPLICAS = 6
WORKERS = 2
LEASE = 2.0
Line = dict[str, Any]


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
        for _ in range(WORKERS):
            self.start_worker()
        for _ in range(REPLICAS):
            self.start_replica()

    # Processes

    def start_replica(self) -> str:
        self._started += 1
        name = f"gw-{self._started}"
        command = ["-m", "benchmarks.chaos.replica", "--redis", self.servers.url, "--name", name]
        command += ["--seed", str(self.seed), "--journal", str(self.journal(name)), "--mutate", self.mutation]
        self.replicas[name] = self._run(command)
        eventually(lambda: any(line["what"] == "ready" for line in self.read(name)), f"{name} is ready", 30)
        return name

    def start_worker(self) -> str:
        self._started += 1
        name = f"worker-{self._started}"
        options = ["--interval", "1", "--lease", str(LEASE), "--metrics-port", "0", "--name", name]
        self.workers[name] = self._run(["-m", "redis_router", "worker", "--redis", self.servers.url, *options])
        return name

    def _run(self, command: list[str]) -> "subprocess.Popen[str]":
        log = self._stack.enter_context((self.folder / f"log-{self._started}").open("w"))
        process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True
        )
        self._stack.callback(end, process)
        return process

    def journal(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def read(self, name: str) -> list[Line]:
        """What a replica wrote so far; a line that a kill cut short is left out."""
        lines = []
        with suppress(FileNotFoundError):
            for text in self.journal(name).read_text().splitlines():
                with suppress(ValueError):
                    lines.append({"replica": name, **json.loads(text)})
        return lines

    def tell(self, command: str) -> None:
        for process in self.replicas.values():
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
        port = self.servers.master_port()
        return next(each for each in (self.servers.master, self.servers.replica) if each.port == port)

    def store(self) -> Store:
        return Store(connect(self.servers.url), "rr", "chaos")

    def wait_served(self, since: EmbeddedServer | None = None, timeout: float = 60.0) -> None:
        """Until the master takes writes; another one than `since`."""

        def served() -> bool:
            with suppress(RouterError, redis.RedisError, OSError):
                if since is None or self.server() is not since:
                    self.store().client.set("rr:chaos:alive", "1", px=100)
                    return True
            return False

        eventually(served, "the master serves", timeout)

    def wait_replicated(self) -> None:
        """Until both servers run and one follows the other, so that the next fault finds a whole set."""

        def whole() -> bool:
            with suppress(redis.RedisError, OSError), redis.Redis(port=self.server().port, socket_timeout=1) as master:
                return bool(master.wait(1, 200))
            return False

        eventually(whole, "the replica follows the master", 60)

    def keep_history(self) -> None:
        """Read the ledgers and streams: now, and before they are flushed."""
        client = self.store().client
        keys = Keys("rr")
        for provider in truth.PROVIDERS:
            self.ledgers.append(client.lrange(f"{keys.health(provider)}:ledger", 0, -1))
            self.streams.append((provider, [fields for _, fields in client.xrange(keys.events(provider))]))

    # Faults

    def harm(self, kind: str) -> None:
        """One fault, and what it takes to be whole again; noted with its moments."""
        before = self.server()
        line: Line = {"replica": "", "what": "fault", "kind": kind, "t": time.time()}
        getattr(self, kind)(line)
        line["failed_over"] = self.server() is not before
        line["until"] = time.time()
        self.lines.append(line)

    def server_killed(self, line: Line) -> None:
        dead = self.server()
        end(dead.process)
        self.wait_served(since=dead)
        line["served"] = time.time()
        dead._options = ("--replicaof", "127.0.0.1", str(self.server().port))
        dead.process = None
        dead.start()
        self.wait_replicated()

    def server_frozen_long(self, line: Line) -> None:
        frozen = self.server()
        frozen.process.send_signal(signal.SIGSTOP)
        self.wait_served(since=frozen)
        line["served"] = time.time()
        frozen.process.send_signal(signal.SIGCONT)
        self.wait_replicated()

    def server_frozen(self, line: Line) -> None:
        """Too short for a failover, long enough for every time-out."""
        process = self.server().process
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.draw.uniform(0.55, 0.75))
        process.send_signal(signal.SIGCONT)
        self.wait_served()
        line["served"] = time.time()
        self.wait_replicated()

    def failover(self, line: Line) -> None:
        before = self.server()
        with redis.Redis(port=self.servers.ports[0], decode_responses=True) as sentinel:
            for _ in range(6):  # sentinels give up where the replica is one that came back just now
                with suppress(redis.ResponseError, AssertionError):
                    sentinel.execute_command("SENTINEL", "FAILOVER", "mymaster")
                    self.wait_served(since=before, timeout=10.0)
                    break
        self.wait_replicated()

    def flushed(self, line: Line) -> None:
        self.wait_served()
        self.keep_history()
        self.store().client.flushall()

    def scripts_flushed(self, line: Line) -> None:
        self.store().client.script_flush()

    def connections_cut(self, line: Line) -> None:
        client = self.store().client
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def replica_killed(self, line: Line) -> None:
        name = line["victim"] = self.draw.choice(list(self.replicas))
        end(self.replicas.pop(name))
        self.start_replica()

    def replica_frozen(self, line: Line) -> None:
        name = line["victim"] = self.draw.choice(list(self.replicas))
        self.replicas[name].send_signal(signal.SIGSTOP)
        time.sleep(self.draw.uniform(0.5, 2 * truth.PERMIT_TTL))
        self.replicas[name].send_signal(signal.SIGCONT)

    def leader_killed(self, line: Line) -> None:
        end(self.workers.pop(self._leader()))
        self.start_worker()

    def leader_frozen(self, line: Line) -> None:
        process = self.workers[self._leader()]
        process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE * self.draw.uniform(0.5, 1.5))
        process.send_signal(signal.SIGCONT)

    def _leader(self) -> str:
        with suppress(RouterError):
            leader = self.store().leader()[1]
            if leader is not None and leader.worker in self.workers:
                return leader.worker
        return self.draw.choice(list(self.workers))


def faults() -> dict[str, Callable[[Fleet, Line], None]]:
    """By the names that `--faults` takes."""
    return {
        name: value
        for name, value in vars(Fleet).items()
        if callable(value) and list(getattr(value, "__annotations__", {})) == ["line", "return"]
    }
