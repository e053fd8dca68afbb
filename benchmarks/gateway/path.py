"""The user's path: one of two providers misbehaves, Redis goes, gateways are replaced; what do users see of it?

Requests come through the openai SDK with its own two retries: to the providers themselves in turn, to our gateway, and
to LiteLLM's proxy. Both gateways read `request_timeout: 2`, which is LiteLLM's bound for a try and our deadline for a
request with all its tries; all else is as they come.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai

from benchmarks.gateway import processes
from benchmarks.gateway.processes import KEY, Server
from benchmarks.gateways import TIMEOUT
from redis_router.testing.server import EmbeddedServer
from tests.support import eventually
from tests.support.balancer import balancer
from tests.support.http import ANSWER, LlmServer, llm_server

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello? " * 100}]}
DIRECT, OURS, LITELLM = "No gateway", "redis-router gateway", "LiteLLM's proxy"
AT_ONCE = 4
"""Clients."""
PATIENCE = 15.0
"""Seconds that a client gives a gateway for a try: more than it needs for all of its own."""
FAULTS: dict[str, tuple[bool, Any]] = {
    "answers 503": (False, (503, {})),
    "answers 401": (False, (401, {})),
    "429, for 10 s": (False, (429, {"retry-after": "10"})),
    "hangs": (False, "hang"),
    "hangs after its headers": (True, "silent"),
    "breaks streams before the content": (True, "cut_early"),
    "breaks streams after the content": (True, "cut"),
    "ends streams with an error event": (True, "overloaded_early"),
    "answers garbage": (False, "garbage"),
    "stops in the middle of streams": (True, "paused"),
}
RECOVERS, WITHOUT_REDIS, ROLLING = "is well again", "Redis is away", "rolling restart"
_READY = {OURS: "/readyz", LITELLM: "/health/readiness"}

Start = Callable[..., Server]


@dataclass(frozen=True)
class Size:
    """Requests of an incident; whether gateways are replaced, too."""

    requests: int
    incidents: Sequence[str]
    rolling: bool = True


FULL = Size(40, tuple(FAULTS))
QUICK = Size(8, ("answers 503", "breaks streams before the content"), rolling=False)


@dataclass(frozen=True)
class Seen:
    """What the users of one gateway saw of one incident: `calls` that the sick provider got; `note`: what else."""

    incident: str
    who: str
    requests: int
    failed: int
    slowest: float
    calls: int | None = None
    note: str = ""

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Users:
    """They ask at the same time, and keep what they saw."""

    def __init__(self, clients: list[openai.OpenAI], model: str) -> None:
        self._clients = clients
        self._model = model
        self.requests = self.failed = 0
        self.slowest = 0.0
        self._lock = threading.Lock()

    def ask(self, number: int, stream: bool) -> None:
        """One request; which of the clients asks is by its number."""
        began = time.perf_counter()
        good = _answered(self._clients[number % len(self._clients)], self._model, stream)
        took = time.perf_counter() - began
        with self._lock:
            self.requests += 1
            self.failed += not good
            self.slowest = max(self.slowest, took)

    def all_ask(self, number: int, stream: bool) -> None:
        """So many requests, AT_ONCE at a time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(partial(self.ask, stream=stream), range(number)))

    def seen(self, incident: str, who: str, calls: int | None = None, note: str = "") -> Seen:
        """All of it."""
        return Seen(incident, who, self.requests, self.failed, self.slowest, calls, note)


def _answered(client: openai.OpenAI, model: str, stream: bool) -> bool:
    """Is it the whole answer?"""
    try:
        said: Any = client.chat.completions.create(model=model, stream=stream, **QUESTION)
        if not stream:
            return bool(said.choices[0].message.content == "".join(ANSWER))
        return "".join(each.choices[0].delta.content or "" for each in said if each.choices) == "".join(ANSWER)
    except Exception:
        return False


def measured(size: Size, *, litellm: bool) -> list[Seen]:
    """All incidents, for one after the other."""
    found = []
    for who in (DIRECT, OURS, LITELLM) if litellm else (DIRECT, OURS):
        for seen in _all(size, who):
            found.append(seen)
            print(f"{who}: {seen}", flush=True)
    return found


def _all(size: Size, who: str) -> Iterator[Seen]:
    names = [f"m{number}" for number in range(len(size.incidents) + 3)]
    with (
        EmbeddedServer() as redis,
        llm_server() as sick,
        llm_server() as good,
        tempfile.TemporaryDirectory(prefix="gateways-") as folder,
        ExitStack() as block,
    ):
        if who != DIRECT:
            entries = processes.models(names, [sick.url, good.url])
            make = processes.ours if who == OURS else processes.litellm
            start = partial(make, Path(folder), entries, redis.url, request_timeout=TIMEOUT)
            server = start()
            block.callback(server.end)
            clients = [openai.OpenAI(base_url=_v1(server.port), api_key=KEY, timeout=PATIENCE)]
        else:
            clients = [openai.OpenAI(base_url=f"{s.url}/v1", api_key="-", timeout=TIMEOUT) for s in (sick, good)]
        Users(clients, names[-3]).all_ask(8, True)  # what is slow the first time alone
        for name, incident in zip(names, size.incidents, strict=False):
            yield _incident(Users(clients, name), who, incident, sick, size.requests)
        if who != DIRECT:
            yield _recovers(Users(clients, names[-2]), who, sick, size.requests)
            yield _without_redis(Users(clients, names[-1]), who, redis, size.requests)
        if who != DIRECT and size.rolling:
            sick.always = good.always = "slow"
            yield _rolling(who, start)


def _v1(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def _incident(users: Users, who: str, incident: str, sick: LlmServer, number: int) -> Seen:
    stream, fault = FAULTS[incident]
    with _suffers(sick, fault):
        before = len(sick.asked)
        users.all_ask(number, stream)
        return users.seen(incident, who, len(sick.asked) - before)


@contextmanager
def _suffers(sick: LlmServer, fault: Any) -> Iterator[None]:
    sick.always = fault
    try:
        yield
    finally:
        sick.always = None


def _recovers(users: Users, who: str, sick: LlmServer, number: int) -> Seen:
    """Until it is asked again; failures of that time alone."""
    with _suffers(sick, (503, {})):
        users.all_ask(number, False)
    users.requests, users.failed, users.slowest = 0, 0, 0.0
    asked, began = len(sick.asked), time.perf_counter()
    while len(sick.asked) == asked and time.perf_counter() - began < 60:
        users.ask(0, False)
        time.sleep(0.02)
    return users.seen(RECOVERS, who, note=f"asked again after {time.perf_counter() - began:.1f} s")


def _without_redis(users: Users, who: str, redis: EmbeddedServer, number: int) -> Seen:
    """Redis is away for the second third of the requests, half of which are streams."""
    for turn in range(3 * number):
        if turn == number:
            redis.stop()
        if turn == 2 * number:
            redis.start()
        users.ask(0, turn % 2 == 0)
    return users.seen(WITHOUT_REDIS, who)


def _rolling(who: str, start: Start) -> Seen:
    """Two gateways behind a balancer are replaced one by one; eight clients without retries keep asking for streams."""
    with ExitStack() as block:
        balanced = block.enter_context(balancer(_READY[who]))
        running = []
        for _ in range(2):
            running.append(start())
            block.callback(running[-1].end)
        balanced.ports = [each.port for each in running]
        base = _v1(balanced.port)
        clients = [openai.OpenAI(base_url=base, api_key=KEY, timeout=PATIENCE, max_retries=0) for _ in range(8)]
        users, ended = Users(clients, "m0"), threading.Event()

        def keeps_asking(number: int) -> None:
            while not ended.is_set():
                users.ask(number, True)

        eventually(lambda: len(balanced._ready) == 2)
        with ThreadPoolExecutor(len(clients)) as pool:
            block.callback(ended.set)
            asking = [pool.submit(keeps_asking, number) for number in range(len(clients))]
            for old in running:
                _replaced(old, start, balanced, block, users)
            ended.set()
            for each in asking:
                each.result()
        return users.seen(ROLLING, who)


def _replaced(old: Server, start: Start, balanced: Any, block: ExitStack, users: Users) -> None:
    """The new one is ready first; then the old one gets its SIGTERM, and ends."""
    fresh = start()
    block.callback(fresh.end)
    balanced.ports.append(fresh.port)
    eventually(lambda: fresh.port in balanced._ready)
    old.end()
    balanced.ports.remove(old.port)
    before = users.requests
    eventually(lambda: users.requests > before + 20)


def table(seen: Sequence[Seen]) -> str:
    """In Markdown: an incident each line."""
    whos = list(dict.fromkeys(each.who for each in seen))
    by = {(each.incident, each.who): each for each in seen}
    lines = [f"| The one | {' | '.join(f'{who}: failed | slowest | calls to it' for who in whos)} |"]
    lines.append(f"|{'---|' * (1 + 3 * len(whos))}")
    for incident in dict.fromkeys(each.incident for each in seen):
        cells = [_cells(by.get((incident, who))) for who in whos]
        lines.append(f"| {incident} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(seen: Seen | None) -> str:
    if seen is None:
        return "- | - | -"
    calls = seen.note or ("-" if seen.calls is None else str(seen.calls))
    return f"{seen.failed} of {seen.requests:,} | {seen.slowest:.1f} s | {calls}"
