"""`redis-router demo`: three gateways, two workers, three providers as real processes, and half a minute of trouble."""

import asyncio
import json
import logging
import os
import queue
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import httpx

from redis_router.circuit.config import CircuitConfig
from redis_router.demo.gateway import MODEL
from redis_router.demo.screen import Screen
from redis_router.demo.story import Line, Story
from redis_router.errors import RouterError
from redis_router.store.connect import connect
from redis_router.store.messages import Event
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer, free_port

REPLICAS = ["gateway-1", "gateway-2", "gateway-3"]
WORKERS = ["worker-1", "worker-2"]
PROVIDERS = {"alpha": 0.03, "beta": 0.05, "gamma": 0.07}
PATIENT = "alpha"
TOKEN_VARIABLE = "REDIS_ROUTER_DEMO_TOKEN"
LEASE = 3.0
OPEN_TIMEOUT = 4.0
REQUESTS_PER_SECOND = 25.0
"""To each replica."""
FAIL_AT, KILL_AT, HEAL_AT, END_AT = 5.0, 11.5, 17.0, 27.0
"""Seconds from the first request. The kill falls between two half-open trials, so the second needs the successor."""


class Fleet:
    """The demo's processes, each ended by its own id, and the lines they tell."""

    def __init__(self, stack: ExitStack, log_path: str) -> None:
        self._log = stack.enter_context(open(log_path, "ab"))  # noqa: SIM115 - closed by the stack
        self.lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        stack.callback(self.stop)

    def start(self, name: str, module: str, *arguments: str, **env: str) -> None:
        """`python -m redis_router.<module>`; its JSON lines arrive in `lines`, its log in the demo's log file."""
        process = subprocess.Popen(
            [sys.executable, "-m", f"redis_router.{module}", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for us: we end them in our order
            # the traffic stays on this machine, whatever proxy the environment names
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **env},
        )
        self.processes[name] = process
        threading.Thread(target=self._read, args=(name, process), daemon=True).start()

    def _read(self, name: str, process: "subprocess.Popen[str]") -> None:
        for text in process.stdout or ():
            with suppress(ValueError):
                self.lines.put({**json.loads(text), "source": name})

    def ready(self, names: list[str]) -> dict[str, int]:
        """The ports the named processes bound. Raises RouterError where one does not come up."""
        ports: dict[str, int] = {}
        deadline = time.monotonic() + 20
        while set(names) - set(ports):
            try:
                line = self.lines.get(timeout=0.2)
            except queue.Empty:
                dead = [name for name in names if self.processes[name].poll() is not None]
                if dead or time.monotonic() > deadline:
                    raise RouterError(f"{', '.join(dead or sorted(set(names) - set(ports)))} did not start") from None
                continue
            if line["what"] == "ready":
                ports[line["source"]] = line["port"]
        return ports

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Load:
    """Requests to every replica, over HTTP, at a steady rate; counts what a user sees."""

    def __init__(self, urls: list[str], story: Story) -> None:
        self._urls = urls
        self._story = story
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http, asyncio.TaskGroup() as calls:
            while not self._stop.is_set():
                for url in self._urls:
                    calls.create_task(self._call(http, url))
                await asyncio.sleep(random.uniform(0.5, 1.5) / REQUESTS_PER_SECOND)

    async def _call(self, http: httpx.AsyncClient, url: str) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello?"}]}
        try:
            answer = await http.post(f"{url}/v1/chat/completions", json=body)
            well = answer.status_code == 200
        except httpx.HTTPError:
            well = False
        if well:
            self._story.answers += 1
        else:
            self._story.refusals += 1


def play(plain: bool) -> int:
    """Run the demo; 0 where it went as it should, 1 where not."""
    descriptor, log_path = tempfile.mkstemp(prefix="redis-router-demo-", suffix=".log")
    os.close(descriptor)
    # lines between those of the live table would push it down
    logging.basicConfig(filename=log_path, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    story = Story(PATIENT, CircuitConfig().half_open_max_probes, LEASE, REPLICAS)
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        fleet = Fleet(stack, log_path)
        providers, gateways = _start(fleet, server.url)
        store = RedisStore(connect(server.url), "rr", "demo")
        threading.Thread(target=_listen, args=(store, fleet.lines), daemon=True).start()
        page, token = _start_workers(fleet, store, server.url)
        hints = [
            f"page: {page}  (token to act: {token})",
            f"logs of all processes: {log_path}",
            f"server: {server.binary.name} at {server.url}",
            "Look in while it runs:",
            f"  redis-cli -p {server.port} HGETALL 'rr:{{{PATIENT}}}:health'",
            f"  redis-cli -p {server.port} XRANGE 'rr:{{{PATIENT}}}:events' - +",
            f"  redis-cli -p {server.port} SUBSCRIBE rr:events",
            f"  redis-router status --redis {server.url}",
        ]
        load = Load(gateways, story)
        with Screen(story, list(PROVIDERS), plain, hints) as screen:
            _show_leader(store, screen)
            load.start()
            stack.callback(load.stop)
            _act(fleet, store, story, screen, providers[PATIENT])
            load.stop()
            _take_news(fleet, story, screen)
        figures, wrong = story.summary()
        screen.close_with(figures, wrong, _records(store, server.port))
    return 1 if wrong else 0


def _start(fleet: Fleet, redis_url: str) -> tuple[dict[str, str], list[str]]:
    """Start all processes; gives the providers' URLs by name, and those of the gateways."""
    for name, latency in PROVIDERS.items():
        fleet.start(name, "demo.provider", "--name", name, "--latency", str(latency))
    providers = {name: f"http://127.0.0.1:{port}" for name, port in fleet.ready(list(PROVIDERS)).items()}
    named = [part for name in PROVIDERS for part in ("--provider", f"{name}={providers[name]}")]
    for name in REPLICAS:
        options = ["--redis", redis_url, "--replica", name, "--open-timeout", str(OPEN_TIMEOUT)]
        fleet.start(name, "demo.gateway", *options, *named)
    gateways = fleet.ready(REPLICAS)
    return providers, [f"http://127.0.0.1:{port}" for port in gateways.values()]


def _start_workers(fleet: Fleet, store: RedisStore, redis_url: str) -> tuple[str, str]:
    """The first one leads, and is killed; the address of the other one's page, which stays, and its token."""
    token, port = secrets.token_hex(8), free_port()
    for name in WORKERS:
        options = ["--name", name, "--interval", "1", "--lease", str(LEASE), "--page-token-env", TOKEN_VARIABLE]
        options += ["--metrics-port", "0" if name == WORKERS[0] else str(port)]
        fleet.start(name, "__main__", "worker", "--redis", redis_url, *options, **{TOKEN_VARIABLE: token})
        _wait_for_leader(store)
    return f"http://127.0.0.1:{port}/", token


def _act(fleet: Fleet, store: RedisStore, story: Story, screen: Screen, patient_url: str) -> None:
    """The script of the half minute."""
    began = time.monotonic()

    def set_failing(failing: bool) -> None:
        screen.news(f"{PATIENT} {'begins to fail' if failing else 'is well again'}")
        httpx.post(f"{patient_url}/admin?failing={str(failing).lower()}", trust_env=False).raise_for_status()

    acts: list[tuple[float, Callable[[], None]]] = [
        (FAIL_AT, lambda: set_failing(True)),
        (KILL_AT, lambda: _kill_leader(fleet, store, story, screen)),
        (HEAL_AT, lambda: set_failing(False)),
    ]
    while (now := time.monotonic() - began) < END_AT:
        if acts and now >= acts[0][0]:
            acts.pop(0)[1]()
        _take_news(fleet, story, screen)
        screen.draw()
        time.sleep(0.05)


def _kill_leader(fleet: Fleet, store: RedisStore, story: Story, screen: Screen) -> None:
    _, leader = store.leader()
    if leader is None:
        raise RouterError("no worker leads, so there is none to kill")
    screen.news(f"kill -9 {leader.worker}, the leader")
    screen.leader = f"none ({leader.worker} was killed)"
    story.killed_at = time.time()
    fleet.processes[leader.worker].send_signal(signal.SIGKILL)


def _wait_for_leader(store: RedisStore) -> None:
    deadline = time.monotonic() + 20
    while store.leader()[1] is None:
        if time.monotonic() > deadline:
            raise RouterError("no worker came up")
        time.sleep(0.05)


def _show_leader(store: RedisStore, screen: Screen) -> None:
    _, leader = store.leader()
    if leader is not None:
        screen.leader = f"{leader.worker}, epoch {leader.epoch}"


def _take_news(fleet: Fleet, story: Story, screen: Screen) -> None:
    while True:
        try:
            line = fleet.lines.get_nowait()
        except queue.Empty:
            return
        story.add(line)
        if line["what"] == "saw":
            screen.news(f"{line['source']} sees {line['provider']} {line['to']} ({line['reason']})", line["t"])
        elif line["what"] == "elected":
            screen.leader = f"{line['worker']}, epoch {line['epoch']}"
            screen.news(f"{line['worker']} was elected, epoch {line['epoch']}", line["t"])


def _listen(store: RedisStore, lines: "queue.SimpleQueue[Line]") -> None:
    """Elections, as the push channel tells them."""
    subscription = store.subscribe()
    with suppress(RouterError):  # the server ends before we do
        while True:
            event: Any = subscription.next(1.0)
            if isinstance(event, Event) and event.kind == "elected":
                _, leader = store.leader()
                if leader is not None:
                    lines.put(
                        {
                            "t": time.time(),
                            "what": "elected",
                            "source": "redis",
                            "worker": leader.worker,
                            "epoch": leader.epoch,
                        }
                    )


def _records(store: RedisStore, port: int) -> str:
    health = store.snapshot([PATIENT]).records[PATIENT]
    fields = "  ".join(f"{key} {value}" for key, value in list(health.to_fields().items())[:7])
    return f"redis-cli -p {port} HGETALL 'rr:{{{PATIENT}}}:health' said at the end:\n  {fields}  ..."
